"""What other programs take of this machine's cores."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import psutil

WATCHED_S = 0.5
"""How long the programs are watched."""

BUSY_SHARE = 0.25
"""The share of the cores from which on what other programs take is worth a warning."""


class Program(NamedTuple):
    """A running program: its name, and the seconds of a core that it has used so far."""

    name: str
    cpu_s: float


def busy_warning(cores: int, sleep: Callable[[float], None] = time.sleep) -> str | None:
    """Return a warning if other programs use much of the cores: latencies on a CPU would be too long."""
    before = programs()
    sleep(WATCHED_S)
    after = programs()
    used = {pid: (after[pid].cpu_s - before[pid].cpu_s) / WATCHED_S for pid in before.keys() & after.keys()}
    total = sum(used.values())
    if total < BUSY_SHARE * cores:
        return None
    most = max(used, key=lambda pid: used[pid])
    return (
        f"other programs use {total:.1f} cores of {cores}, {after[most].name} (process {most}) most: latencies will be "
        "too long, and vary; end them, or wait until they have ended"
    )


def programs() -> Mapping[int, Program]:
    """Return the programs that can be seen, but for this one, by process."""
    found = {}
    for process in psutil.process_iter(["name", "cpu_times"]):
        times = process.info["cpu_times"]
        if process.pid != os.getpid() and times is not None:
            found[process.pid] = Program(process.info["name"] or "unknown", times.user + times.system)
    return found

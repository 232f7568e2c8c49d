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
    """A running program: its name, and the cores that it has used since it was looked at last."""

    name: str
    cores: float


def busy_warning(cores: int, sleep: Callable[[float], None] = time.sleep) -> str | None:
    """Return a warning if other programs use much of the cores: latencies on a CPU would be too long."""
    programs()
    sleep(WATCHED_S)
    used = programs()
    total = sum(program.cores for program in used.values())
    if total < BUSY_SHARE * cores:
        return None
    most = max(used, key=lambda pid: used[pid].cores)
    return (
        f"other programs use {total:.1f} cores of {cores}, {used[most].name} (process {most}) most: latencies will be "
        "too long, and vary; end them, or wait until they have ended"
    )


def programs() -> Mapping[int, Program]:
    """Return the programs that can be seen, but for this one, by process. One that is new has used nothing."""
    return {
        process.pid: Program(process.info["name"] or "unknown", (process.info["cpu_percent"] or 0.0) / 100)
        for process in psutil.process_iter(["name", "cpu_percent"])
        if process.pid != os.getpid()
    }

"""A process of the program, as its parent sees it: started, listened to, stopped and ended."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

PROGRAM = Path(__file__).resolve().parent.parent / "bench_knobs.py"
"""What a process that is started afresh runs."""


class Child:
    """A process that works on one trial: forked from this one, or where CUDA does not stand that, a fresh one."""

    def __init__(self, role: str, given: argparse.Namespace, log: Path, job: Callable[[int, int], None]) -> None:
        self.log = log
        self.started = time.monotonic()
        self.stops: list[tuple[float, float]] = []
        self.stage = "load"
        self.entered: dict[str, float] = {}
        self.further: dict[str, Any] = {}
        self.buffer = b""
        self.tell, its_tell = os.pipe()
        its_hear, self.handle = os.pipe()
        if given.fork:
            self.pid = os.fork()
            if not self.pid:
                try:
                    become(log)
                    job(its_tell, its_hear)
                    os._exit(0)
                finally:  # whatever happens, it must not go on as its parent
                    os._exit(1)
        else:
            command = [sys.executable, str(PROGRAM), "--role", role, "--pipes", str(its_tell), str(its_hear)]
            with log.open("wb") as output:
                self.process = subprocess.Popen(
                    command, stdout=output, stderr=output, start_new_session=True, pass_fds=(its_tell, its_hear),
                    env={**os.environ, "BENCH_KNOBS": json.dumps(vars(given), default=str)},
                )  # fmt: skip
            self.pid = self.process.pid
        os.close(its_tell)
        os.close(its_hear)

    def lines(self, wait_s: float = 0.0) -> list[Any] | None:
        """Messages that have come; None once there can be none any more."""
        if not select.select([self.tell], [], [], wait_s)[0]:
            return []
        got = os.read(self.tell, 1 << 16)
        if not got:
            return None
        *whole, self.buffer = (self.buffer + got).split(b"\n")
        return [json.loads(line) for line in whole]

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def stopped_s(self, start: float, end: float) -> float:
        return sum(max(0.0, min(end, until) - max(start, since)) for since, until in self.stops)

    def end(self) -> str | None:
        """Kill it with all that it started; say how it ended if that was not by itself."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for inner in psutil.Process(self.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    inner.kill()
        self.signal(signal.SIGKILL)
        status = os.waitpid(self.pid, 0)[1]
        os.close(self.tell)
        os.close(self.handle)
        code = os.waitstatus_to_exitcode(status)
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"crash ({self.stage}): {how}" if code else None


def alive(pid: int) -> bool:
    """Whether it still runs: one that ended is a zombie until it is waited for."""
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def become(log: Path) -> None:
    """Be a process of its own: its own group, its own log, ended when its parent ends."""
    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)


def lap(child: Child, start: str, end: str) -> float | None:
    """Seconds from one stage to another, without those in which the process was stopped."""
    since = child.entered.get(start) if start else child.started
    until = child.entered.get(end)
    return None if since is None or until is None else until - since - child.stopped_s(since, until)

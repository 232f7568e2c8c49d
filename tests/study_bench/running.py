"""A command that runs with a log of its own until it ends, is interrupted, or its time is up."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

STOP_S = 60.0
"""How long a command may take to end once it was interrupted."""

KILLED = -9

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(Exception):
    """This program was asked to stop, or its time is up."""


class Deadline:
    """When this program stops by itself, counted from its start."""

    def __init__(self, seconds: float | None) -> None:
        self.at = time.monotonic() + seconds if seconds else float("inf")

    def check(self) -> None:
        """Raise Stopped if the time is up."""
        if time.monotonic() >= self.at:
            raise Stopped


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM, as of `timeout`, and Ctrl-C into Stopped, once: further ones do not disturb the clean end."""

    def stop(*_: object) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise Stopped

    known = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in known.items():
            signal.signal(number, handler)


def start(words: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, so that Ctrl-C here reaches it by `interrupt` alone."""
    with log.open("ab") as file:
        return subprocess.Popen(
            words, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True, env=dict(environment)
        )


def wait(process: subprocess.Popen[bytes], deadline: Deadline) -> int:
    """Wait for a command and return its exit code. If this program has to stop first, the command is interrupted."""
    try:
        while process.poll() is None:
            deadline.check()
            time.sleep(0.2)
    except Stopped:
        interrupt(process)
        raise
    return int(process.returncode)


def interrupt(process: subprocess.Popen[bytes]) -> int:
    """End a command as Ctrl-C does, and kill it if it does not end. Returns its exit code."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        return int(process.wait(STOP_S))
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return KILLED

"""Stop and continue a process with all that it started, and the guard that kills what stands still when nobody is left
to continue it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence

import msgspec
import psutil

from tuner.execution import python

Root = tuple[int, float]
"""A process by its number and the time of its creation: together they name no other process."""


def stop_tree(pid: int) -> list[psutil.Process]:
    """Stop a process, its group and all its descendants, and return those that were stopped."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGSTOP)
    stopped: list[psutil.Process] = []
    while new := [process for process in tree(pid) if process not in stopped]:  # one may be starting another
        for process in new:
            with contextlib.suppress(psutil.Error):
                process.suspend()
        stopped += new
    return stopped


def continue_tree(pid: int, stopped: Iterable[psutil.Process]) -> None:
    """Continue what `stop_tree` stopped."""
    for process in stopped:
        with contextlib.suppress(psutil.Error):
            process.resume()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGCONT)


def tree(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants, none if it is gone."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def kill_tree(root: Root) -> None:
    """Kill a process, its group and all its descendants."""
    pid, created = root
    found = tree(pid)
    if not found or found[0].create_time() != created:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.kill()


class Guard:
    """A process that kills the workers which stand still when the parent dies: a stopped worker cannot see that."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def watch(self, pids: Sequence[int]) -> None:
        """Have these processes killed when the parent dies, and no others. The first of them starts the guard."""
        if self.process is None and not pids:
            return
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                python.command("tuner.execution.standstill"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True, env=python.environment(),
            )  # fmt: skip
        roots = [(process.pid, process.create_time()) for pid in pids for process in tree(pid)[:1]]
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(msgspec.json.encode(roots) + b"\n")
            self.process.stdin.flush()

    def close(self) -> None:
        """End the guard, which kills nothing if it was told that nothing stands still."""
        if self.process is not None:
            assert self.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process.wait()
            self.process = None


def main() -> None:
    """Read lists of processes, one a line, until the parent is gone, then kill those of the last list."""
    roots: Sequence[Root] = ()
    for line in sys.stdin.buffer:
        if line.endswith(b"\n"):
            roots = msgspec.json.decode(line, type=list[Root])
    for root in roots:
        kill_tree(root)


if __name__ == "__main__":
    main()

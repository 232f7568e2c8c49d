"""The lock of a study: one process runs it, and others can say which one, without writing anything."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from tuner.errors import BadInput

LOCKS = Path("/proc/locks")
"""The kernel's list of locks: number, kind, mode, access, process, device and inode, range."""


@dataclass(frozen=True)
class Holder:
    """The process that runs a study. `pid` is None if it is not seen from here, as of another container."""

    pid: int | None = None
    since: str | None = None

    def __str__(self) -> str:
        if self.pid is None:
            return "another process is running this study"
        since = f", since {self.since}" if self.since else ""
        return f"another process is running this study (pid {self.pid}{since})"


@contextmanager
def lock_study(path: Path) -> Iterator[None]:
    """Hold a study's lock. Raises BadInput if another process holds it."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise running(path, holder(path) or Holder()) from None
    try:
        yield
    finally:
        lock.release()


def require_free(path: Path) -> None:
    """Raise BadInput if a process holds a study's lock, before anything is done for a command that writes to it."""
    found = holder(path)
    if found is not None:
        raise running(path, found)


def running(path: Path, found: Holder) -> BadInput:
    """Make the error for a study that another process runs."""
    return BadInput(f"{path.parent}: {found}; wait until it ends, or stop it with Ctrl-C there")


def is_locked(path: Path) -> bool:
    """Return whether a process holds a study's lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def holder(path: Path) -> Holder | None:
    """Return the process that holds a study's lock, or None if none does."""
    if not is_locked(path):
        return None
    with suppress(OSError):
        inode = path.stat().st_ino
        for pid in _processes_with_lock(inode):
            if _has_open(pid, path):
                return Holder(pid, _started(pid))
    return Holder()


def _processes_with_lock(inode: int) -> Iterator[int]:
    for line in LOCKS.read_text(encoding="ascii", errors="replace").splitlines():
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
            yield int(fields[4])


def _has_open(pid: int, path: Path) -> bool:
    """Return whether a process has a file open, as the same number may be that of a file of another file system."""
    with suppress(OSError):
        return any(each.samefile(path) for each in Path(f"/proc/{pid}/fd").iterdir() if each.exists())
    return False


def _started(pid: int) -> str | None:
    """Return when a process began, in local time to the minute."""
    import psutil

    try:
        seconds = psutil.Process(pid).create_time()
    except psutil.Error:
        return None
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")

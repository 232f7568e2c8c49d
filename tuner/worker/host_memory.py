"""The peak of this process's memory on the host."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

RESET = "5"
"""What has Linux forget the peak of a process's resident memory."""


def peak_memory_bytes() -> int:
    """Return the peak of the resident memory, since it was reset where that is possible.

    A forked process inherits its parent's peak in `ru_maxrss`, but not in /proc.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def reset_peak_memory() -> None:
    """Forget the peak so far."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(RESET, encoding="ascii")

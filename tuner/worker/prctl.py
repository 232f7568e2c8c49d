"""What a process on Linux can ask for about its parent and its descendants (man 2 prctl)."""

from __future__ import annotations

import ctypes

PDEATHSIG = 1
CHILD_SUBREAPER = 36


def die_with_parent(signal_number: int) -> None:
    """Have Linux send this process a signal when its parent dies, or none if it is 0."""
    ctypes.CDLL(None, use_errno=True).prctl(PDEATHSIG, signal_number, 0, 0, 0)


def become_subreaper() -> None:
    """Have orphans of what this process starts become its children, so that they can be found and killed."""
    ctypes.CDLL(None, use_errno=True).prctl(CHILD_SUBREAPER, 1, 0, 0, 0)

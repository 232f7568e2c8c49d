"""A search for the innermost event of some type around another event."""

from __future__ import annotations

from collections.abc import Callable

from tuner.trace.read import Trace


class EnclosingEvent:
    """A search for the innermost wanted event around another. Tests each event once, however deeply they nest."""

    def __init__(self, trace: Trace, wanted: Callable[[int], bool]) -> None:
        self._parents = trace.parents
        self._wanted = wanted
        self._known = {-1: -1}

    def __call__(self, index: int) -> int:
        """Return the index of the innermost wanted event around host[index], -1 if there is none."""
        passed = []
        index = self._parents[index]
        while index not in self._known:
            passed.append(index)
            if self._wanted(index):
                self._known[index] = index
            else:
                index = self._parents[index]
        enclosing = self._known[index]
        self._known.update(dict.fromkeys(passed, enclosing))
        return enclosing

"""When the GPU had nothing to do, and whose fault that was. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from tuner.trace.read import Event, Trace

Reason = Literal["host wait", "kernel wait", "other"]

_KERNEL_WAIT_US = 30.0
"""HTA's threshold: a shorter gap between two pieces of work that both were queued is the GPU's own."""


class Gap(NamedTuple):
    """A time, in microseconds, in which no stream of the GPU worked, and the work that ended it."""

    start: float
    end: float
    next: Event

    @property
    def length(self) -> float:
        return self.end - self.start


def gaps(work: Iterable[Event]) -> Iterator[Gap]:
    """Yield the gaps of work that is ordered by time."""
    until: float | None = None
    for event in work:
        start = event.ts
        if until is not None and start > until:
            yield Gap(until, start, event)
        until = max(until or 0.0, start + event.dur)


def reason(gap: Gap, trace: Trace) -> Reason:
    """Return why the GPU idled, told as Holistic Trace Analysis does.

    The host kept it waiting if it called for the next work only after the last had ended.
    """
    call = trace.call_indices.get(gap.next.correlation)
    if call is not None and trace.host[call].ts > gap.start:
        return "host wait"
    return "kernel wait" if gap.length < _KERNEL_WAIT_US else "other"


class IdleCosts:
    """Charges each gap of the GPU to at most one thing that the CPU did meanwhile. Microseconds."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._gaps = list(gaps(trace.device))
        self._ends = [gap.end for gap in self._gaps]
        self._charged: set[int] = set()

    def charge(self, start: float, end: float) -> float:
        """Return how long the GPU had nothing to do around a time, until its next work began."""
        price = 0.0
        for index in range(bisect_left(self._ends, start), len(self._gaps)):
            gap = self._gaps[index]
            if gap.start > end:
                break
            if index not in self._charged:
                self._charged.add(index)
                price += gap.length
        return price

    def rest(self, start: float, end: float) -> float:
        """Return how much of the uncharged gaps in a time the GPU waited for a launch."""
        left = (gap for index, gap in enumerate(self._gaps) if index not in self._charged and start <= gap.start < end)
        return sum(gap.length for gap in left if reason(gap, self._trace) == "host wait")

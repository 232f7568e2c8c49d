"""Gaps in which the GPU was idle, their causes and costs. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from tuner.trace.read import Event, Trace

Reason = Literal["host wait", "kernel wait", "other"]

_KERNEL_WAIT_US = 30.0
"""The threshold of Holistic Trace Analysis: a shorter gap between two queued operations is the GPU's overhead."""


class Gap(NamedTuple):
    """A time span in microseconds in which no stream of the GPU worked, and the event that ended it."""

    start: float
    end: float
    next: Event

    @property
    def length(self) -> float:
        return self.end - self.start


def gaps(work: Iterable[Event]) -> Iterator[Gap]:
    """Yield the gaps between events, which are ordered by time."""
    until: float | None = None
    for event in work:
        start = event.ts
        if until is not None and start > until:
            yield Gap(until, start, event)
        until = max(until or 0.0, start + event.dur)


def reason(gap: Gap, trace: Trace) -> Reason:
    """Return why the GPU was idle, by the rules of Holistic Trace Analysis.

    It is a host wait if the host launched the next work only after the last had ended.
    """
    call = trace.call_indices.get(gap.next.correlation)
    if call is not None and trace.host[call].ts > gap.start:
        return "host wait"
    return "kernel wait" if gap.length < _KERNEL_WAIT_US else "other"


class IdleCosts:
    """The gaps of the GPU in microseconds, each charged to at most one event of the CPU."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._gaps = list(gaps(trace.device))
        self._ends = [gap.end for gap in self._gaps]
        self._charged: set[int] = set()

    def charge(self, start: float, end: float) -> float:
        """Charge the uncharged gaps that overlap a time span, and return their total length."""
        total = 0.0
        for index in range(bisect_left(self._ends, start), len(self._gaps)):
            gap = self._gaps[index]
            if gap.start > end:
                break
            if index not in self._charged:
                self._charged.add(index)
                total += gap.length
        return total

    def rest(self, start: float, end: float) -> float:
        """Return the total length of uncharged gaps that begin in a time span and are host waits."""
        left = (gap for index, gap in enumerate(self._gaps) if index not in self._charged and start <= gap.start < end)
        return sum(gap.length for gap in left if reason(gap, self._trace) == "host wait")

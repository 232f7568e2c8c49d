"""Gaps in which the GPU was idle, their causes and costs. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, get_args

from tuner.trace.events import Event
from tuner.trace.read import Trace

Reason = Literal["host wait", "kernel wait", "other"]

_KERNEL_WAIT_US = 30.0
"""The threshold of Holistic Trace Analysis: a shorter gap between two queued operations is the GPU's overhead."""


class Gap(NamedTuple):
    """A time span in microseconds in which no stream of the GPU worked, and the event that ended it, if one did."""

    start: float
    end: float
    next: Event | None

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

    It is a host wait if the host launched the next work only after the last had ended, or launched none.
    """
    if gap.next is None:
        return "other" if trace.is_unmarked else "host wait"
    call = trace.calls.get(gap.next.correlation)
    if call is not None and trace.host[call].ts > gap.start:
        return "host wait"
    return "kernel wait" if gap.length < _KERNEL_WAIT_US else "other"


def idle_us(trace: Trace) -> dict[Reason, float]:
    """Return the time in which the GPU was idle while the steps ran, by reason."""
    start, end = trace.window
    work = trace.gpu_busy
    inner = (gap for gap in gaps(work) if start < gap.end and gap.start < end)
    last = max((event.end for event in work), default=end)
    times: dict[Reason, float] = dict.fromkeys(get_args(Reason), 0.0)
    for gap in (Gap(start, work[0].ts, work[0]), *inner, Gap(last, end, None)) if work else ():
        times[reason(gap, trace)] += max(0.0, min(gap.end, end) - max(gap.start, start))
    return times


class IdleCosts:
    """The gaps of the GPU in microseconds. No part of a gap is charged twice to events of the CPU."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._gaps = list(gaps(trace.device))
        self._ends = [gap.end for gap in self._gaps]
        self._left = [gap.length for gap in self._gaps]

    def charge(self, start: float, end: float, limit: float = math.inf) -> float:
        """Charge what is left of the gaps that overlap a time span, up to a limit, and return the total."""
        total = 0.0
        for index in range(bisect_left(self._ends, start), len(self._gaps)):
            if self._gaps[index].start > end or total >= limit:
                break
            charged = min(self._left[index], limit - total)
            self._left[index] -= charged
            total += charged
        return total

    def rest(self, start: float, end: float) -> float:
        """Return what is left of the gaps that begin in a time span and are host waits."""
        inside = (index for index, gap in enumerate(self._gaps) if start <= gap.start < end)
        return sum(self._left[index] for index in inside if reason(self._gaps[index], self._trace) == "host wait")

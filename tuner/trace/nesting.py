"""Nests the events of each thread by their times. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from tuner.trace.events import Event


class Nested(NamedTuple):
    """Events ordered by thread and time, outer before inner.

    `parents[i]` is the latest event of the thread that began no later than events[i] and has not ended, or -1.
    """

    events: list[Event]
    parents: list[int]


def column(events: Sequence[Event], field: str) -> np.ndarray:
    """Return a field of events as an array of numbers."""
    return np.fromiter(map(attrgetter(field), events), float, len(events))


def nest(events: Sequence[Event]) -> Nested:
    """Order events by thread and time, and find the event around each."""
    start, length = column(events, "ts"), column(events, "dur")
    numbers: dict[tuple[int | str, int | str], int] = {}
    threads = [numbers.setdefault((event.pid, event.tid), len(numbers)) for event in events]
    thread = np.array(threads, int)
    order = np.lexsort((-length, start, thread))
    bounds = np.searchsorted(thread[order], range(len(numbers) + 1)).tolist()
    begins, ends = start[order].tolist(), (start + length)[order].tolist()
    parents: list[int] = []
    for first, last in pairwise(bounds):
        around, until = [-1], [math.inf]
        for index, begin, end in zip(range(first, last), begins[first:last], ends[first:last], strict=True):
            while until[-1] <= begin:
                around.pop()
                until.pop()
            parents.append(around[-1])
            around.append(index)
            until.append(end)
    return Nested([events[index] for index in order.tolist()], parents)

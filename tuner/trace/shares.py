"""Shares of the steps' wall time: by operator, by class of kernels, by component. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from tuner.trace.enclosing import EnclosingEvent
from tuner.trace.events import COPY_LINE, MODULE, STEP_MARKS, SYNC_LINE, Event
from tuner.trace.nesting import column
from tuner.trace.read import Trace

_LONGEST = 300
_NO_COMPONENT = (*STEP_MARKS, SYNC_LINE, COPY_LINE)


class Part(NamedTuple):
    """The key by which times are summed: the operator around an event, the event's name, its component."""

    operator: str
    name: str
    component: str


Key = Callable[[Part], str | None]


class Times(Protocol):
    """Times of the parts of the steps."""

    def shares(self, key: Key) -> tuple[tuple[str, float], ...]:
        """Return shares of the wall time, grouped by `key`, the largest first. A part without a key is left out."""


class GpuTimes:
    """The spans of the GPU's work, with the operator that launched it.

    A share is the time in which at least one stream worked on it, so streams that overlap give no more than 100 %.
    """

    def __init__(self, trace: Trace) -> None:
        self._window = trace.window
        components, rest, around = _components(trace), _rest(trace), _operators(trace)
        work = trace.gpu_busy
        self._spans = spans_of(work)
        self._places: defaultdict[Part, list[int]] = defaultdict(list)
        for place, event in enumerate(work):
            call = trace.calls.get(event.correlation, -1)
            launcher = around(call) if call >= 0 else -1
            operator = trace.host[launcher].name if launcher >= 0 else event.name
            self._places[Part(operator, event.name, components.get(call, rest))].append(place)

    def shares(self, key: Key) -> tuple[tuple[str, float], ...]:
        """Return the share of the wall time in which each group worked."""
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for part, places in self._places.items():
            name = key(part)
            if name is not None:
                groups[name].extend(places)
        start, end = self._window
        times = {name: covered_us(self._spans[np.sort(places)], start, end) for name, places in groups.items()}
        return _shares(times, end - start)


class CpuTimes:
    """The self time of the CPU's operators."""

    def __init__(self, trace: Trace) -> None:
        self._wall_us = trace.window[1] - trace.window[0]
        components, rest = _components(trace), _rest(trace)
        self._times: defaultdict[Part, float] = defaultdict(float)
        for index, time in _self_times(trace).items():
            name = trace.host[index].name
            self._times[Part(name, name, components.get(index, rest))] += time

    def shares(self, key: Key) -> tuple[tuple[str, float], ...]:
        """Return the share of each group, summed over all threads."""
        sums: Counter[str] = Counter()
        for part, time in self._times.items():
            name = key(part)
            if name is not None:
                sums[name] += round(time * 1000)
        return _shares({name: time / 1000 for name, time in sums.items()}, self._wall_us)


def spans_of(events: Sequence[Event]) -> np.ndarray:
    """Return the start and the end of each event, one row for each."""
    starts = column(events, "ts")
    return np.stack([starts, starts + column(events, "dur")], axis=1)


def covered_us(spans: np.ndarray, start: float, end: float) -> float:
    """Return the time between `start` and `end` that at least one of the spans covers. Spans are ordered by start."""
    times = spans.clip(start, end)
    if not len(times):
        return 0.0
    until = np.maximum.accumulate(times[:, 1])
    before = np.concatenate(([start], until[:-1]))
    return float(np.maximum(times[:, 1] - np.maximum(times[:, 0], before), 0.0).sum())


def _shares(times: dict[str, float], wall_us: float) -> tuple[tuple[str, float], ...]:
    largest = Counter({name: round(time * 1000) for name, time in times.items()}).most_common()
    return tuple((name[:_LONGEST], time / 1000 / wall_us) for name, time in largest) if wall_us else ()


def _operators(trace: Trace) -> EnclosingEvent:
    return EnclosingEvent(trace, lambda index: trace.host[index].cat == "cpu_op")


def _self_times(trace: Trace) -> dict[int, float]:
    """Return the time of each operator inside the steps without the operators inside it."""
    around = _operators(trace)
    self_times: dict[int, float] = {}
    for index in trace.step_indices:
        event = trace.host[index]
        if event.cat == "cpu_op":
            self_times[index] = event.dur
            outer = around(index)
            if outer in self_times:
                # An operator may end after the one around it: subtract only the overlap.
                self_times[outer] -= max(0.0, min(event.end, trace.host[outer].end) - event.ts)
    return self_times


def _components(trace: Trace) -> dict[int, str]:
    """Map host events to their component, the outermost annotation or module around them, if there is one."""
    components: dict[int, str] = {}
    named = [
        index for indices in trace.indices_by_name.values() if _component(trace.host[indices[0]]) for index in indices
    ]
    if not named:
        return components
    for index in trace.step_indices:
        name = components.get(trace.parents[index], "") or _component(trace.host[index])
        if name:
            components[index] = name
    return components


def _component(event: Event) -> str:
    if event.name.startswith(MODULE):
        return event.name.removeprefix(MODULE).rpartition("_")[0]
    is_named = event.cat == "user_annotation" and not event.name.startswith(_NO_COMPONENT)
    return event.name if is_named and "_data:" not in event.name else ""


def _rest(trace: Trace) -> str:
    """Return the component of unnamed time. In traces of `capture` only the denoiser is unnamed."""
    return "denoiser" if trace.steps and trace.steps[0].name.startswith(STEP_MARKS[0]) else "unnamed"

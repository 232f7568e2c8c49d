"""A typed reader of traces: Chrome JSON of torch's profiler, plain or gzipped, with any accelerator or none."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from tuner.errors import BadInput
from tuner.trace import content, ranks
from tuner.trace.events import FIRST_STEP, RUNTIME, STEP_MARKS, Event, EventGroups
from tuner.trace.nesting import column, nest
from tuner.trace.python_calls import PythonCalls

_LATEST_US = float(1 << 62)
_EPOCH_US = 1e9

T = TypeVar("T")
M = TypeVar("M", bound="Mark")


@dataclass(frozen=True)
class Trace:
    """The events of one process in a trace, and its marked steps.

    `host` holds the events of the CPU, ordered by thread and time; `parents[i]` is the index of the event around
    host[i], or -1. `device` holds the events of the GPU, ordered by time, `frames` the calls of Python functions.
    `untimed` GPU events are left out because the profiler gave them no time. `first` is the loop's first step, which
    the verdict does not count. `gpu` is the name of the GPU, or "a GPU" if the trace shows that there was one, else
    None; `accelerator` is the name of one that is neither from NVIDIA nor from AMD. `missing` names
    checks that the file does not allow, `notes` what was mended.
    """

    name: str
    events: int
    gpu: str | None
    steps: tuple[Event, ...]
    first: Event | None
    host: Sequence[Event]
    parents: Sequence[int]
    device: Sequence[Event]
    frames: Sequence[Event] = ()
    untimed: int = 0
    accelerator: str | None = None
    process: str = ""
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_unmarked: bool = False

    def indices_between(self, start: float, end: float) -> list[int]:
        """Return the indices of the host events that begin in a time span."""
        return [index for index, event in enumerate(self.host) if start <= event.ts < end]

    @cached_property
    def step_indices(self) -> list[int]:
        """The indices of the host events that begin inside the marked steps."""
        return self.indices_between(self.steps[0].ts, self.steps[-1].end) if self.steps else []

    def group_by_name(self, indices: Iterable[int]) -> dict[str, list[int]]:
        """Group the indices of host events by name."""
        groups: dict[str, list[int]] = {}
        for index in indices:
            groups.setdefault(self.host[index].name, []).append(index)
        return groups

    @cached_property
    def indices_by_name(self) -> dict[str, list[int]]:
        """The indices of the host events inside the marked steps, by name."""
        return self.group_by_name(self.step_indices)

    @cached_property
    def calls(self) -> dict[int, int]:
        """The index of each runtime call by correlation."""
        return {
            event.args.correlation: index
            for index, event in enumerate(self.host)
            if event.cat in RUNTIME and event.args and event.args.correlation
        }

    @cached_property
    def call_indices(self) -> dict[int, int]:
        """The index of each runtime call inside the steps, by correlation."""
        start, end = (self.steps[0].ts, self.steps[-1].end) if self.steps else (0.0, 0.0)
        return {key: index for key, index in self.calls.items() if start <= self.host[index].ts < end}

    @cached_property
    def gpu_work(self) -> list[Event]:
        """The kernels, copies and fills that calls inside the steps started, even if they ran after the steps."""
        calls = self.call_indices
        return [event for event in self.device if event.args and event.args.correlation in calls]

    @cached_property
    def window(self) -> tuple[float, float]:
        """The start and the end of the time that the steps took: the CPU's or the GPU's, whichever is longer.

        A CPU that runs ahead ends its steps before the GPU does.
        """
        start, end = (self.steps[0].ts, self.steps[-1].end) if self.steps else (0.0, 0.0)
        work = self.gpu_work
        last = max((event.end for event in work), default=end)
        return max(end, last) - max(end - start, last - work[0].ts if work else 0.0), max(end, last)

    @cached_property
    def gpu_busy(self) -> list[Event]:
        """The GPU events that overlap the window, also those that were launched before it."""
        start, end = self.window
        return [event for event in self.device if event.ts < end and event.end > start]

    @cached_property
    def gpu_work_ends(self) -> list[tuple[float, int]]:
        """The end and the correlation of each GPU event, ordered by end."""
        return sorted((event.end, event.correlation) for event in self.device)

    @cached_property
    def python(self) -> PythonCalls:
        return PythonCalls(self.frames)

    @cached_property
    def kernels(self) -> list[Event]:
        return [event for event in self.gpu_work if event.cat == "kernel"]


def load(path: Path) -> Trace:
    """Read the trace of one process. Raises BadInput if the file is missing, truncated or not a trace."""
    return load_all(path)[0]


def load_all(path: Path) -> list[Trace]:
    """Read a trace, with one entry for each process that used a GPU: a file may hold several ranks."""
    return _without_gc(lambda: _traces(path, content.decode(content.read_bytes(path), path)))


def ensure_steps(trace: Trace) -> Trace:
    """Return the trace. If it has no marked steps, mark all of it as one step."""
    if trace.steps:
        return trace
    events = (*trace.host, *trace.device)
    if not events:
        return replace(trace, is_unmarked=True)
    start, end = min(event.ts for event in events), max(event.end for event in events)
    # Slightly longer, so that it includes an event of no duration at the very end.
    mark = Event(cat="user_annotation", name="the whole trace", ts=start, dur=end - start + 0.001)
    return replace(trace, steps=(mark,), is_unmarked=True)


def _without_gc(work: Callable[[], T]) -> T:
    """Run without the cyclic garbage collector, which takes longer than parsing a large trace."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return work()
    finally:
        if was_enabled:
            gc.enable()


def _traces(path: Path, decoded: content.Decoded) -> list[Trace]:
    file = decoded.file
    groups = EventGroups(file.events)
    processes = ranks.processes(groups.host)
    if len(processes) < 2:
        return [_trace(path, groups, decoded, _rank(file.distributed))]
    parts = ranks.partition(file.events, processes)
    return [
        _trace(path, EventGroups(part.events), decoded, f"process {process}", part.missing)
        for process, part in parts.items()
    ]


def _rank(distributed: Any) -> str:
    """Return which rank of a distributed program wrote the trace, if it says so."""
    known = isinstance(distributed, Mapping) and {"rank", "world_size"} <= distributed.keys()
    return f"rank {distributed['rank']} of {distributed['world_size']}"[:80] if known else ""


def _trace(
    path: Path, groups: EventGroups, decoded: content.Decoded, process: str, missing: tuple[str, ...] = ()
) -> Trace:
    is_clock = _latest(groups.host) > _EPOCH_US
    host, parents = nest(_timed(path, groups.host, is_clock))
    device = sorted(_timed(path, groups.device, is_clock), key=attrgetter("ts"))
    marks = [event for event in host if event.cat == "user_annotation"]
    return Trace(
        name=path.name,
        events=len(decoded.file.events),
        gpu=_gpu(decoded.file.gpus or decoded.file.earlier_gpus, groups.accelerator, device, host),
        # Until torch 1.11 a step was an operator.
        steps=marked_steps(marks) or marked_steps([event for event in host if event.cat == "cpu_op"]),
        first=next((event for event in marks if event.name == FIRST_STEP), None),
        host=host,
        parents=parents,
        device=device,
        frames=groups.frames,
        untimed=len(groups.device) - len(device),
        accelerator=groups.accelerator,
        process=process,
        missing=missing,
        notes=(*decoded.notes, *_untimed_calls(len(groups.host) - len(host))),
    )


def _untimed_calls(count: int) -> Iterator[str]:
    if count:
        yield f"CPU events: {count:,} have no time (they are at time 0) and are left out"


def _latest(events: Sequence[Event]) -> float:
    return max(map(attrgetter("ts"), events), default=0.0)


def _timed(path: Path, events: list[Event], is_clock: bool) -> list[Event]:
    """Return the events without those that have no time. Raises BadInput if a time is impossible."""
    start = column(events, "ts")
    for times in (start, column(events, "dur")):
        invalid = np.flatnonzero((times < 0) | (times > _LATEST_US))
        if len(invalid):
            problem = "negative time" if times[invalid[0]] < 0 else "time beyond the range of clocks"
            raise BadInput(f"{path}: {events[invalid[0]].name[:80]!r} has a {problem}")
    if is_clock and not start.all():
        # torch 2.12 writes some events at time 0, though the other times count from 1970 or from boot.
        return [event for event in events if event.ts]
    return events


def _gpu(gpus: Any, accelerator: str | None, device: Sequence[Event], host: Sequence[Event]) -> str | None:
    """Return the name of the GPU that worked. Calls of its runtime show that there was one, even without GPU events."""
    name = _gpu_name(gpus, device) or accelerator
    if name is None and (device or any(event.cat in RUNTIME for event in host)):
        name = "a GPU"
    count = len({event.pid for event in device})
    if count < 2:
        return name
    return f"{count} GPUs" if name == "a GPU" else f"{count} x {name}"


def _gpu_name(gpus: Any, device: Sequence[Event]) -> str | None:
    known = [gpu for gpu in gpus if isinstance(gpu, Mapping)] if isinstance(gpus, list) else []
    if known:
        names = {str(gpu.get("id")): gpu.get("name") for gpu in known}
        return str(names.get(str(device[0].pid) if device else "", known[0].get("name")) or "a GPU")
    return None


class Mark(Protocol):
    """An event that may mark a step."""

    name: str
    ts: float


def marked_steps(marks: Sequence[M]) -> tuple[M, ...]:
    """Return the steps with marks of this package, or else those with marks of torch's profiler."""
    by_mark = ([event for event in marks if event.name.startswith(mark)] for mark in STEP_MARKS)
    return tuple(sorted(next(filter(None, by_mark), []), key=attrgetter("ts")))

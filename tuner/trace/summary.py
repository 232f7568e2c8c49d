"""A summary of the marked steps of a trace: times, shares, launches and copies. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from tuner.records.gate import Copies, TraceSummary
from tuner.trace import classes
from tuner.trace.enclosing import EnclosingEvent
from tuner.trace.idle import Reason, gaps, reason
from tuner.trace.read import COPY_LINE, MODULE, STEP_MARKS, SYNC_LINE, Event, Trace
from tuner.trace.waits import GRAPH_LAUNCHES, is_launch

_TOP = 10
_LONGEST = 300
_NO_COMPONENT = (*STEP_MARKS, SYNC_LINE, COPY_LINE)


class Part(NamedTuple):
    """The key by which times are summed: the operator around an event, the event's name, its component."""

    operator: str
    name: str
    component: str


def summarise(trace: Trace) -> TraceSummary:
    """Return the summary of the marked steps. Without marked steps every number is 0."""
    wall_us = _wall_us(trace.steps, trace.gpu_work)
    times = _times_of_gpu(trace) if trace.gpu_work else _times_of_cpu(trace)
    no_gpu = {"gpu_busy_share": None, "launches_per_step": None}
    gpu_fields = _gpu_fields(trace, times, wall_us) if trace.gpu_work else no_gpu
    classify = classes.classify_kernel if trace.gpu_work else classes.classify_operator
    return TraceSummary(
        steps=len(trace.steps),
        events=trace.events,
        kernel_events=len(trace.kernels),
        step_ms=wall_us / 1000 / max(1, len(trace.steps)),
        top_operators=_shares(times, lambda part: part.operator, wall_us)[:_TOP],
        classes=dict(_shares(times, lambda part: classify(part.name), wall_us)),
        components=dict(_shares(times, lambda part: part.component, wall_us)),
        **gpu_fields,
    )


def _gpu_fields(trace: Trace, times: Mapping[Part, float], wall_us: float) -> dict[str, Any]:
    """Return the fields that need GPU work."""
    steps = max(1, len(trace.steps))
    launches = {name: len(indices) for name, indices in trace.indices_by_name.items() if is_launch(name)}
    replays = sum(count for name, count in launches.items() if name.startswith(GRAPH_LAUNCHES))
    idle = dict.fromkeys(get_args(Reason), 0.0)
    for gap in gaps(trace.gpu_work):
        idle[reason(gap, trace)] += gap.length / wall_us
    busy = _busy_us(trace.gpu_work) / wall_us
    kernels = Counter(trace.host[trace.call_indices[kernel.correlation]].name for kernel in trace.kernels)
    replayed = sum(count for name, count in kernels.items() if name.startswith(GRAPH_LAUNCHES))
    names = {kernel.name for kernel in trace.kernels}
    kernel_times = {part: time for part, time in times.items() if part.name in names}
    return {
        "gpu_busy_share": busy,
        "launches_per_step": sum(launches.values()) / steps,
        "host_wait_share": idle["host wait"],
        "kernel_wait_share": idle["kernel wait"],
        "other_wait_share": max(0.0, 1 - busy - idle["host wait"] - idle["kernel wait"]),
        "top_kernels": _shares(kernel_times, lambda part: part.name, wall_us)[:_TOP],
        "copies": tuple(_copies(trace.gpu_work, steps)),
        "graph_launches_per_step": replays / steps,
        "graph_kernel_share": replayed / len(trace.kernels) if trace.kernels else None,
    }


def _wall_us(steps: Sequence[Event], work: Sequence[Event]) -> float:
    """Return the longer of the CPU's and the GPU's time: a CPU that runs ahead ends its steps before the GPU does."""
    host = steps[-1].end - steps[0].ts if steps else 0.0
    device = max(event.end for event in work) - work[0].ts if work else 0.0
    return max(host, device)


def _busy_us(work: Iterable[Event]) -> float:
    """Return the time in which at least one stream was busy. `work` is ordered by time."""
    busy, until = 0.0, float("-inf")
    for event in work:
        busy += max(0.0, event.end - max(event.ts, until))
        until = max(until, event.end)
    return busy


def _times_of_gpu(trace: Trace) -> dict[Part, float]:
    """Return the GPU time by part, with the operator that launched the work."""
    components, rest, around = _components(trace), _rest(trace), _operators(trace)
    times: dict[Part, float] = defaultdict(float)
    for event in trace.gpu_work:
        call = trace.call_indices[event.correlation]
        launcher = around(call)
        operator = trace.host[launcher].name if launcher >= 0 else event.name
        times[Part(operator, event.name, components.get(call, rest))] += event.dur
    return times


def _operators(trace: Trace) -> EnclosingEvent:
    return EnclosingEvent(trace, lambda index: trace.host[index].cat == "cpu_op")


def _times_of_cpu(trace: Trace) -> dict[Part, float]:
    """Return the self time of the CPU's operators by part."""
    components, rest, around = _components(trace), _rest(trace), _operators(trace)
    self_times: dict[int, float] = {}
    for index in trace.step_indices:
        event = trace.host[index]
        if event.cat == "cpu_op":
            self_times[index] = event.dur
            outer = around(index)
            if outer in self_times:
                # An operator may end after the one around it: subtract only the overlap.
                self_times[outer] -= max(0.0, min(event.end, trace.host[outer].end) - event.ts)
    times: dict[Part, float] = defaultdict(float)
    for index, time in self_times.items():
        name = trace.host[index].name
        times[Part(name, name, components.get(index, rest))] += time
    return times


def _shares(times: Mapping[Part, float], key: Callable[[Part], str], wall_us: float) -> tuple[tuple[str, float], ...]:
    """Return shares of the wall time, grouped by `key`, the largest first."""
    sums: Counter[str] = Counter()
    for part, time in times.items():
        sums[key(part)] += round(time * 1000)
    return tuple((name[:_LONGEST], time / 1000 / wall_us) for name, time in sums.most_common()) if wall_us else ()


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


def _copies(work: Iterable[Event], steps: int) -> Iterator[Copies]:
    directions: dict[str, list[Event]] = {}
    for event in work:
        if event.cat == "gpu_memcpy":
            directions.setdefault(event.name.removeprefix("Memcpy "), []).append(event)
    for direction, copies in sorted(directions.items()):
        yield Copies(
            direction=direction,
            count_per_step=len(copies) / steps,
            bytes_per_step=sum(copy.bytes for copy in copies) / steps,
            ms_per_step=sum(copy.dur for copy in copies) / 1000 / steps,
        )

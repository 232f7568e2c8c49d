"""What the marked steps of a trace cost, in numbers. Pure."""

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
    """What work that is alike took: the operator around it, its own name, its component."""

    operator: str
    name: str
    component: str


def summarise(trace: Trace) -> TraceSummary:
    """Return the summary of the marked steps; without any, of nothing: every number is 0."""
    wall_us = _wall_us(trace.steps, trace.gpu_work)
    times = _times_of_gpu(trace) if trace.gpu_work else _times_of_cpu(trace)
    of_gpu = _of_gpu(trace, times, wall_us) if trace.gpu_work else {"gpu_busy_share": None, "launches_per_step": None}
    classify = classes.classify_kernel if trace.gpu_work else classes.classify_operator
    return TraceSummary(
        steps=len(trace.steps),
        events=trace.events,
        kernel_events=len(trace.kernels),
        step_ms=wall_us / 1000 / max(1, len(trace.steps)),
        top_operators=_shares(times, lambda part: part.operator, wall_us)[:_TOP],
        classes=dict(_shares(times, lambda part: classify(part.name), wall_us)),
        components=dict(_shares(times, lambda part: part.component, wall_us)),
        **of_gpu,
    )


def _of_gpu(trace: Trace, times: Mapping[Part, float], wall_us: float) -> dict[str, Any]:
    """Return the fields that only the work of a GPU fills."""
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
    of_kernels = {part: time for part, time in times.items() if part.name in names}
    return {
        "gpu_busy_share": busy,
        "launches_per_step": sum(launches.values()) / steps,
        "host_wait_share": idle["host wait"],
        "kernel_wait_share": idle["kernel wait"],
        "other_wait_share": max(0.0, 1 - busy - idle["host wait"] - idle["kernel wait"]),
        "top_kernels": _shares(of_kernels, lambda part: part.name, wall_us)[:_TOP],
        "copies": tuple(_copies(trace.gpu_work, steps)),
        "graph_launches_per_step": replays / steps,
        "graph_kernel_share": replayed / len(trace.kernels) if trace.kernels else None,
    }


def _wall_us(steps: Sequence[Event], work: Sequence[Event]) -> float:
    """Return the longer time line: a CPU that is ahead closes its steps before the GPU has done their work."""
    host = steps[-1].end - steps[0].ts if steps else 0.0
    device = max(event.end for event in work) - work[0].ts if work else 0.0
    return max(host, device)


def _busy_us(work: Iterable[Event]) -> float:
    """Return the time in which at least one stream worked; `work` is ordered by time."""
    busy, until = 0.0, float("-inf")
    for event in work:
        busy += max(0.0, event.end - max(event.ts, until))
        until = max(until, event.end)
    return busy


def _times_of_gpu(trace: Trace) -> dict[Part, float]:
    """Return the time of the GPU's work, under the operator that launched it."""
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
    """Return the time of the CPU's operators, each without that of the operators inside it."""
    components, rest, around = _components(trace), _rest(trace), _operators(trace)
    own: dict[int, float] = {}
    for index in trace.step_indices:
        event = trace.host[index]
        if event.cat == "cpu_op":
            own[index] = event.dur
            outer = around(index)
            if outer in own:
                # One that ends after the operator around it shares only the rest of that one's time.
                own[outer] -= max(0.0, min(event.end, trace.host[outer].end) - event.ts)
    times: dict[Part, float] = defaultdict(float)
    for index, time in own.items():
        name = trace.host[index].name
        times[Part(name, name, components.get(index, rest))] += time
    return times


def _shares(times: Mapping[Part, float], key: Callable[[Part], str], wall_us: float) -> tuple[tuple[str, float], ...]:
    """Return the share of the wall time by some property, the largest first."""
    sums: Counter[str] = Counter()
    for part, time in times.items():
        sums[key(part)] += round(time * 1000)
    return tuple((name[:_LONGEST], time / 1000 / wall_us) for name, time in sums.most_common()) if wall_us else ()


def _components(trace: Trace) -> dict[int, str]:
    """Map each host event to its component: the outermost annotation or module around it, if there is one."""
    found: dict[int, str] = {}
    named = [
        index for indices in trace.indices_by_name.values() if _component(trace.host[indices[0]]) for index in indices
    ]
    if not named:
        return found
    for index in trace.step_indices:
        name = found.get(trace.parents[index], "") or _component(trace.host[index])
        if name:
            found[index] = name
    return found


def _component(event: Event) -> str:
    if event.name.startswith(MODULE):
        return event.name.removeprefix(MODULE).rpartition("_")[0]
    is_named = event.cat == "user_annotation" and not event.name.startswith(_NO_COMPONENT)
    return event.name if is_named and "_data:" not in event.name else ""


def _rest(trace: Trace) -> str:
    """Return what the time without a component belongs to: the capture's marks leave only the denoiser unnamed."""
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

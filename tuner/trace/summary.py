"""A summary of the marked steps of a trace: times, shares, launches and copies. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from tuner.records.gate import Copies, TraceSummary
from tuner.trace import classes
from tuner.trace.events import Event
from tuner.trace.idle import idle_us
from tuner.trace.read import Trace
from tuner.trace.shares import CpuTimes, GpuTimes, Times, covered_us, spans_of
from tuner.trace.waits import is_graph_launch, is_launch

_TOP = 10


def summarise(trace: Trace) -> TraceSummary:
    """Return the summary of the marked steps. Without marked steps every number is 0."""
    wall_us = trace.window[1] - trace.window[0]
    times: Times = GpuTimes(trace) if trace.gpu_work else CpuTimes(trace)
    no_gpu = {"gpu_busy_share": None, "launches_per_step": None}
    gpu_fields = _gpu_fields(trace, times, wall_us) if trace.gpu_work else no_gpu
    classify = classes.classify_kernel if trace.gpu_work else classes.classify_operator
    return TraceSummary(
        steps=len(trace.steps),
        events=trace.events,
        kernel_events=len(trace.kernels),
        step_ms=wall_us / 1000 / max(1, len(trace.steps)),
        top_operators=times.shares(lambda part: part.operator)[:_TOP],
        classes=dict(times.shares(lambda part: classify(part.name))),
        components=dict(times.shares(lambda part: part.component)),
        **gpu_fields,
    )


def _gpu_fields(trace: Trace, times: Times, wall_us: float) -> dict[str, Any]:
    """Return the fields that need GPU work."""
    steps = max(1, len(trace.steps))
    launches = {name: len(indices) for name, indices in trace.indices_by_name.items() if is_launch(name)}
    replays = sum(count for name, count in launches.items() if is_graph_launch(name))
    idle = {reason: time / wall_us for reason, time in idle_us(trace).items()}
    busy = covered_us(spans_of(trace.gpu_busy), *trace.window) / wall_us
    kernels = Counter(trace.host[trace.call_indices[kernel.correlation]].name for kernel in trace.kernels)
    of_class = Counter(classes.classify_kernel(kernel.name) for kernel in trace.kernels)
    replayed = sum(count for name, count in kernels.items() if is_graph_launch(name))
    names = {event.name for event in trace.gpu_busy if event.cat == "kernel"}
    return {
        "gpu_busy_share": busy,
        "launches_per_step": sum(launches.values()) / steps,
        "host_wait_share": idle["host wait"],
        "kernel_wait_share": idle["kernel wait"],
        "other_wait_share": max(0.0, 1 - busy - idle["host wait"] - idle["kernel wait"]),
        "top_kernels": times.shares(lambda part: part.name if part.name in names else None)[:_TOP],
        "copies": tuple(_copies(trace.gpu_work, steps)),
        "graph_launches_per_step": replays / steps,
        "kernels_per_step": {name: count / steps for name, count in of_class.items()},
        "graph_kernel_share": replayed / len(trace.kernels) if trace.kernels else None,
    }


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

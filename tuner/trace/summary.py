"""What the marked steps of a trace cost, in numbers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from tuner.record import TraceSummary
from tuner.trace.read import Event, Trace

_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "hipLaunchKernel", "hipExtModuleLaunchKernel")
_TOP = 10


def summarise(trace: Trace) -> TraceSummary:
    """The summary of the marked steps; without any, of nothing: every number is 0."""
    work = work_of_steps(trace)
    wall_us = _wall_us(trace.steps, work)
    steps = len(trace.steps)
    launches = sum(trace.host[index].name.startswith(_LAUNCHES) for index in trace.in_steps())
    times = _device_times(trace, work) if work else _host_times(trace)
    return TraceSummary(
        steps=steps,
        events=trace.events,
        kernel_events=sum(event.cat == "kernel" for event in work),
        step_ms=wall_us / 1000 / steps if steps else 0.0,
        gpu_busy_share=_busy_us(work) / wall_us if work else None,
        launches_per_step=launches / steps if work and steps else None,
        top_operators=tuple((name, time / 1000 / wall_us) for name, time in times.most_common(_TOP)) if wall_us else (),
    )


def kernels_of_steps(trace: Trace) -> list[Event]:
    """The kernels that calls inside the marked steps launched, wherever on the time line they ran."""
    return [event for event in work_of_steps(trace) if event.cat == "kernel"]


def work_of_steps(trace: Trace) -> list[Event]:
    """Kernels, copies and fills that calls inside the marked steps started."""
    calls = _calls(trace)
    return [event for event in trace.device if event.correlation in calls]


def _calls(trace: Trace) -> dict[int, int]:
    """From the correlation of each runtime call inside the steps to its index."""
    return {
        trace.host[index].correlation: index
        for index in trace.in_steps()
        if trace.host[index].correlation and trace.host[index].cat in ("cuda_runtime", "cuda_driver")
    }


def _wall_us(steps: Sequence[Event], work: Sequence[Event]) -> float:
    """The longer of the two time lines: a CPU that is ahead closes its steps before the GPU has done their work."""
    host = steps[-1].end - steps[0].ts if steps else 0.0
    device = max(event.end for event in work) - work[0].ts if work else 0.0
    return max(host, device)


def _busy_us(work: Iterable[Event]) -> float:
    """The time in which at least one stream worked; `work` is ordered by time."""
    busy, until = 0.0, float("-inf")
    for event in work:
        busy += max(0.0, event.end - max(event.ts, until))
        until = max(until, event.end)
    return busy


def _device_times(trace: Trace, work: Iterable[Event]) -> Counter[str]:
    """GPU time by the operator that launched it, in nanoseconds."""
    calls = _calls(trace)
    times: Counter[str] = Counter()
    for event in work:
        times[_launcher(trace, calls[event.correlation]) or event.name] += round(event.dur * 1000)
    return times


def _launcher(trace: Trace, call: int) -> str:
    return next((trace.host[i].name for i in trace.ancestors(call) if trace.host[i].cat == "cpu_op"), "")


def _host_times(trace: Trace) -> Counter[str]:
    """CPU time by operator, without the time of the operators inside it, in nanoseconds."""
    times: Counter[str] = Counter()
    for index in trace.in_steps():
        event, parent = trace.host[index], trace.parents[index]
        if event.cat != "cpu_op":
            continue
        times[event.name] += round(event.dur * 1000)
        if parent >= 0 and trace.host[parent].cat == "cpu_op":
            times[trace.host[parent].name] -= round(event.dur * 1000)
    return times

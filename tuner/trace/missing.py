"""Names the checks that a trace does not allow, so that what it does not show is not called clean. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tuner.trace.events import RUNTIME, Event
from tuner.trace.read import Trace

_OF_A_GPU = re.compile(
    r"cudnn|miopen|cuda|nccl|_mps|(?:^|[:_])(?:npu|xpu|hpu|mtia|mlu|musa|xla)[_:]|_(?:flash|efficient)_attention_(?:for|back)ward$"
)
"""Operators that run on an accelerator alone."""

_REPEATED = 0.2


def missing_gpu_events(trace: Trace) -> list[str]:
    """Return the checks that a trace of a GPU does not allow because events are missing."""
    if trace.kernels:
        return []
    if not trace.host:
        return ["all checks: the trace has no CPU events"]
    if trace.untimed:
        return untimed_events(trace)
    if trace.device and not any(event.cat in RUNTIME for event in trace.host):
        return ["device syncs: the trace has GPU work, but no call of the CPU that started it"]
    return ["device syncs: the trace has no GPU kernel in its steps; the profiler missed the GPU"]


def _call(event: Event) -> tuple[str, int]:
    return event.name, event.correlation


def missing_checks(trace: Trace) -> list[str]:
    """Return the checks that a trace of any program does not allow, whatever its machine was."""
    missing = missing_gpu_events(trace) if trace.gpu or not trace.host else []
    return [*trace.missing, *_unknown_calls(trace), *missing, *_missing_operators(trace)]


def untimed_events(trace: Trace) -> list[str]:
    """Return the check that GPU events at time 0 do not allow."""
    all_events = trace.untimed + len(trace.device)
    events = f"{trace.untimed:,} of {all_events:,} GPU events"
    return [f"GPU idle time: {events} have no time (they are at time 0) and are left out"] if trace.untimed else []


def mixed_processes(trace: Trace) -> list[str]:
    """Return all checks if ids of calls repeat: ranks that ran in containers can have the same process id."""
    calls = [event for event in trace.host if event.cat in RUNTIME and event.args and event.args.correlation]
    allowed = _REPEATED * len(calls)
    is_mixed = len(calls) - len(trace.calls) > allowed and len(calls) - len(set(map(_call, calls))) > allowed
    return ["all checks: several processes in this file have the same id (ids of GPU calls repeat)"] if is_mixed else []


def _unknown_calls(trace: Trace) -> Iterator[str]:
    if trace.accelerator:
        yield f"device syncs: the trace is of {trace.accelerator}, and only waits of CUDA and HIP are known"


def _missing_operators(trace: Trace) -> Iterator[str]:
    if trace.host and not any(event.cat == "cpu_op" for event in trace.host):
        yield "graph breaks: the trace has no CPU operators (profile with ProfilerActivity.CPU too)"
    names = (event.name for event in trace.host if event.cat == "cpu_op")
    of_gpu = None if trace.gpu else next(filter(_OF_A_GPU.search, names), None)
    if of_gpu:
        yield f"device syncs: {of_gpu[:80]} runs on an accelerator, but the profiler recorded none of its work"

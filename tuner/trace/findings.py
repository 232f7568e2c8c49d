"""The rules of the gate: one function a kind of finding, each over the marked steps only. Pure."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

from tuner.record import Finding
from tuner.trace import sources
from tuner.trace.compile_log import Compilation, CompileLog, GraphBreak
from tuner.trace.read import SYNC_LINE, Event, Trace

WAITS = frozenset(
    {
        "cudaStreamSynchronize",
        "cudaDeviceSynchronize",
        "cudaEventSynchronize",
        "cudaMemcpy",
        "cuStreamSynchronize",
        "cuCtxSynchronize",
        "cuEventSynchronize",
        "hipStreamSynchronize",
        "hipDeviceSynchronize",
        "hipEventSynchronize",
        "hipMemcpy",
        "hipMemcpyWithStream",
    }
)
_COPIES = frozenset({"cudaMemcpyAsync", "hipMemcpyAsync"})
_RUNTIME = frozenset({"cuda_runtime", "cuda_driver"})
_REGION = re.compile(r"^Torch-Compiled Region: (\d+)/\d+")
_COMPILED = re.compile(r"^dynamo_data: compile_id=(\d+/\d+)")


def graph_breaks(trace: Trace, log: CompileLog) -> list[Finding]:
    """Breaks that dynamo reported, else those that only the trace shows: a compiled region inside another."""
    if not log.breaks:
        return [_nested_finding(frame, count, trace) for frame, count in sorted(_nested_regions(trace).items())]
    runs = Counter(match[1] for match in _matches(_REGION, trace))
    return [_break_finding(entry, sum(runs[frame] for frame in entry.frames), trace) for entry in log.breaks]


def recompiles(trace: Trace, log: CompileLog) -> list[Finding]:
    """Compilations inside the steps, which warm-up should have had, and functions that dynamo gave up compiling."""
    known = {entry.id: entry for entry in log.compilations}
    limits = {entry.id: entry for entry in log.fallbacks}
    in_steps = Counter(match[1] for match in _matches(_COMPILED, trace))
    inside = [
        _compile_finding(known.get(graph) or _unknown(graph), count, _steps(trace))
        for graph, count in in_steps.items()
        if graph not in limits
    ]
    return inside + [_fallback_finding(entry) for entry in limits.values()]


def recompiles_between(before: CompileLog, after: CompileLog, calls: int) -> list[Finding]:
    """Compilations between two readings of the log, for windows that are timed and not traced."""
    old = {entry.id for entry in (*before.compilations, *before.fallbacks)}
    new = [entry for entry in after.compilations if entry.id not in old]
    found = [_compile_finding(entry, 1, calls) for entry in new]
    return found + [_fallback_finding(entry) for entry in after.fallbacks if entry.id not in old]


def cudagraph_findings(log: CompileLog) -> list[Finding]:
    """CUDA graphs that were asked for and that inductor did without."""
    if not log.cudagraph_skips:
        return []
    return [
        Finding(
            kind="cuda graph",
            count=log.cudagraph_skips,
            count_per_step=float(log.cudagraph_skips),
            idle_ms_per_step=None,
            operator="torch.compile",
            reason="; ".join(log.cudagraph_reasons) or "inductor skipped the CUDA graph",
            source="",
        )
    ]


def syncs(trace: Trace) -> list[Finding]:
    """Waits of the CPU for the GPU, alike ones together, priced by the GPU's idle time after them."""
    idle = _IdleGaps(trace.device)
    prices: dict[tuple[str, str, str], list[float]] = {}
    for index, why in _waits(trace):
        alike = prices.setdefault((_operator(trace, index), why, _source(trace, index)), [])
        alike.append(idle.charge(trace.host[index].end))
    return [
        Finding(
            kind="device sync",
            count=len(alike),
            count_per_step=len(alike) / _steps(trace),
            idle_ms_per_step=sum(alike) / 1000 / _steps(trace),
            operator=operator,
            reason=why,
            source=source,
        )
        for (operator, why, source), alike in sorted(prices.items(), key=lambda item: -sum(item[1]))
    ]


class _IdleGaps:
    """The times in which no stream of the GPU worked; each is charged to one wait only. Microseconds."""

    def __init__(self, device: Iterable[Event]) -> None:
        self._gaps: list[tuple[float, float]] = []
        busy_until: float | None = None
        for event in device:
            if busy_until is not None and event.ts > busy_until:
                self._gaps.append((busy_until, event.ts))
            busy_until = max(busy_until or 0.0, event.end)
        self._ends = [end for _, end in self._gaps]
        self._charged: set[int] = set()

    def charge(self, wait_end: float) -> float:
        """How long the GPU had nothing to do around the end of a wait, until its next work began."""
        index = bisect_left(self._ends, wait_end)
        if index == len(self._gaps) or index in self._charged or self._gaps[index][0] > wait_end:
            return 0.0
        self._charged.add(index)
        start, end = self._gaps[index]
        return end - start


def _waits(trace: Trace) -> list[tuple[int, str]]:
    """The calls inside the steps that made the CPU wait, one for each operator that waited, and why it did."""
    copies = {event.correlation: event.name for event in trace.device if event.cat == "gpu_memcpy"}
    calls: dict[int, int] = {}
    copied: dict[int, str] = {}
    for index in trace.in_steps():
        event = trace.host[index]
        if event.cat not in _RUNTIME:
            continue
        # A copy and the wait for it are one thing when one operator does both.
        group = _operator_around(trace, index)
        copy = copies.get(event.correlation, "") if event.correlation else ""
        if copy:
            copied[group] = copy
        if _is_wait(trace, index) or (event.name in _COPIES and _blocks(copy)):
            calls[group] = index
    return [(index, _why(trace.host[index].name, copied.get(group, ""))) for group, index in calls.items()]


def _is_wait(trace: Trace, index: int) -> bool:
    parent = trace.parents[index]
    inside_a_wait = parent >= 0 and trace.host[parent].name in WAITS
    return trace.host[index].name in WAITS and not inside_a_wait


def _blocks(copy: str) -> bool:
    # To pageable memory the driver returns when the copy is done, asked to wait or not; from it, when it is staged.
    return "DtoH" in copy and "Pageable" in copy


def _why(call: str, copy: str) -> str:
    return f"the CPU waits for the GPU in {call}" + (f" for {copy}" if copy else "")


def _operator_around(trace: Trace, index: int) -> int:
    """The index of the innermost operator around a call, or the call's own when Python itself made it."""
    parent = trace.parents[index]
    return parent if parent >= 0 and trace.host[parent].cat == "cpu_op" else index


def _operator(trace: Trace, index: int) -> str:
    around = (trace.host[i] for i in trace.ancestors(index))
    operators = [event.name for event in around if event.cat == "cpu_op" and "::" in event.name]
    return " > ".join(reversed(operators)) or trace.host[index].name


def _source(trace: Trace, index: int) -> str:
    """The Python line of a wait, if the trace was captured with stacks."""
    return _annotated_line(trace, index) or next(
        (line for i in trace.ancestors(index) if (line := sources.of_call_stack(trace.host[i].stack))), ""
    )


def _annotated_line(trace: Trace, index: int) -> str:
    """The line in the annotation right before a wait: no other wait of the thread lies between."""
    thread = (trace.host[index].pid, trace.host[index].tid)
    for before in range(index - 1, -1, -1):
        event = trace.host[before]
        if (event.pid, event.tid) != thread or event.name in WAITS:
            return ""
        if event.name.startswith(SYNC_LINE):
            return event.name.removeprefix(SYNC_LINE)
    return ""


def _nested_regions(trace: Trace) -> Counter[str]:
    """How often a compiled region ran inside another one in the steps, by the id of the inner function."""
    nested: Counter[str] = Counter()
    for index in trace.in_steps():
        match = _REGION.match(trace.host[index].name)
        if match and any(_REGION.match(trace.host[i].name) for i in trace.ancestors(index)):
            nested[match[1]] += 1
    return nested


def _break_finding(entry: GraphBreak, runs: int, trace: Trace) -> Finding:
    # A skipped frame leaves no region to count; each of its places is then taken to run once a step.
    return Finding(
        kind="graph break",
        count=runs or entry.count,
        count_per_step=runs / _steps(trace) or float(entry.count),
        idle_ms_per_step=None,
        operator="torch.compile",
        reason=entry.reason,
        source=entry.source,
    )


def _nested_finding(frame: str, count: int, trace: Trace) -> Finding:
    return Finding(
        kind="graph break",
        count=count,
        count_per_step=count / _steps(trace),
        idle_ms_per_step=None,
        operator="torch.compile",
        reason=f"compiled region {frame} runs inside another: the outer graph ends there",
        source="",
    )


def _unknown(graph: str) -> Compilation:
    return Compilation(id=graph, function="", reason="", source="")


def _compile_finding(entry: Compilation, count: int, times: int) -> Finding:
    return Finding(
        kind="recompile",
        count=count,
        count_per_step=count / times,
        idle_ms_per_step=None,
        operator=entry.function or f"graph {entry.id}",
        reason=f"guard failed: {entry.reason}" if entry.reason else "first compiled after warm-up",
        source=entry.source,
    )


def _fallback_finding(entry: Compilation) -> Finding:
    return Finding(
        kind="recompile",
        count=1,
        count_per_step=1.0,
        idle_ms_per_step=None,
        operator=entry.function or f"graph {entry.id}",
        reason=f"recompile limit reached, runs uncompiled; last guard that failed: {entry.reason or 'unknown'}",
        source=entry.source,
    )


def _matches(pattern: re.Pattern[str], trace: Trace) -> Iterable[re.Match[str]]:
    return filter(None, (pattern.match(trace.host[index].name) for index in trace.in_steps()))


def _steps(trace: Trace) -> int:
    return max(1, len(trace.steps))

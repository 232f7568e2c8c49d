"""The rules of the gate: one method for each kind of finding, over the marked steps only. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from tuner.numbers import format_number
from tuner.records.gate import Finding, FindingKind
from tuner.trace import sources
from tuner.trace.compile_log import Compilation, CompileLog, GraphBreak
from tuner.trace.enclosing import EnclosingEvent
from tuner.trace.events import Event
from tuner.trace.idle import IdleCosts
from tuner.trace.read import Trace
from tuner.trace.regions import (
    failed_lookups,
    find_regions,
    graph_recordings,
    graph_replays,
    nested_regions,
    outermost_work,
)
from tuner.trace.waits import Wait, find_waits, without_profiler_waits

_LISTED = 5
_OUTSIDE = " (outside the steps: once per image)"


class Findings:
    """The findings of a trace, with the idle time of the GPU that each one costs.

    Each gap of the GPU is charged once, to the first finding that claims it, so call `syncs` before the other methods.
    Idle times are None if `is_gpu` is False, or if the steps started no GPU work.
    """

    def __init__(self, trace: Trace, is_gpu: bool) -> None:
        self.trace = trace
        self.compiled = find_regions(trace)
        self.idle_costs = IdleCosts(trace) if is_gpu and trace.gpu_work else None
        self.steps = max(1, len(trace.steps))
        self.outer_work = outermost_work(trace, self.compiled)
        self.frames = {*self.compiled.regions.values(), *map(_frame, self.compiled.graphs.values())}

    def syncs(self) -> list[Finding]:
        """Return the CPU's waits for the GPU, grouped by cause. Waits inside compile work count as compile work."""
        work = EnclosingEvent(self.trace, self.compiled.work.__contains__)
        waits = [wait for wait in find_waits(self.trace) if work(wait.index) < 0]
        if self.trace.is_unmarked:
            waits = without_profiler_waits(self.trace, waits)
        return self._group_waits(waits, self.steps)

    def syncs_of_first_step(self, steady: Sequence[Finding]) -> list[Finding]:
        """Return the waits that only the first step of the loop has: they occur once per image."""
        first = self.trace.first
        if first is None:
            return []
        remaining: Counter[tuple[str, str, str]] = Counter()
        for finding in steady:
            remaining[_place(finding)] += math.ceil(finding.count_per_step)
        first_only = []
        for wait in find_waits(self.trace, self.trace.indices_between(first.ts, first.end)):
            if remaining[_place(wait)] > 0:
                remaining[_place(wait)] -= 1
            else:
                first_only.append(wait)
        return self._group_waits(first_only, 1)

    def graph_breaks(self, log: CompileLog | None) -> list[Finding]:
        """Return the graph breaks that dynamo reported, or else the nested compiled regions that the trace shows."""
        reported = [entry for entry in log.breaks if not self._is_outside(entry.frames, entry.source)] if log else []
        if reported:
            return [self._reported_break(entry) for entry in reported]
        inner = nested_regions(self.trace, self.compiled)
        return [self._nested(inner)] if inner else []

    def outside_denoiser(self, log: CompileLog | None) -> list[Finding]:
        """Return the graph breaks and fallbacks of autoencoders and text encoders, which run outside the steps."""
        if not log:
            return []
        breaks = [entry for entry in log.breaks if self._is_outside(entry.frames, entry.source)]
        fallbacks = {entry.id: entry for entry in log.fallbacks if self._is_fallback_outside(entry)}
        findings = [*map(self._reported_break, breaks), *map(fallback_finding, fallbacks.values())]
        return [msgspec.structs.replace(finding, reason=f"{finding.reason}{_OUTSIDE}") for finding in findings]

    def _is_outside(self, frames: Iterable[str], line: str) -> bool:
        """Return whether code is clearly outside the denoiser: neither compiled in the steps nor its file."""
        return self.frames.isdisjoint(frames) and sources.is_outside_denoiser(line)

    def _is_fallback_outside(self, entry: Compilation) -> bool:
        return self._is_outside((_frame(entry.id),), entry.source)

    def recompiles(self, log: CompileLog | None) -> list[Finding]:
        """Return the compilations that happen inside the steps, not in warm-up, and functions that run uncompiled."""
        known = {entry.id: entry for entry in log.compilations} if log else {}
        limits = {entry.id: entry for entry in log.fallbacks if not self._is_fallback_outside(entry)} if log else {}
        inside: dict[str, list[int]] = {}
        for index, graph in self.compiled.graphs.items():
            inside.setdefault(graph, []).append(self.outer_work[index])
        groups: dict[Compilation, list[int]] = {}
        graphs = [graph for graph in inside if graph not in limits]
        unknown = [graph for graph in graphs if graph not in known]
        for graph in graphs:
            groups.setdefault(known.get(graph) or _unknown(graph, unknown), []).extend(inside[graph])
        compiled = [self._compilation(entry, spans, is_known=log is not None) for entry, spans in groups.items()]
        fallbacks = [fallback_finding(entry) for entry in limits.values()] if log else self._failed_lookups()
        return compiled + fallbacks

    def _compilation(self, entry: Compilation, spans: Sequence[int], is_known: bool) -> Finding:
        """Return the finding of a compilation. Without a log of the warm-up, a first one may belong to it."""
        finding = compile_finding(entry, len(spans), self.steps, self._idle_ms(spans))
        if is_known or entry.reason:
            return finding
        return msgspec.structs.replace(finding, kind="compile work", reason="compiled for the first time")

    def compile_work(self) -> list[Finding]:
        """Return compiler work inside the steps other than new graphs, such as autotuning or loading of code."""
        outermost = {self.outer_work[index] for index in self.compiled.work}
        of_graphs = {self.outer_work[index] for index in self.compiled.graphs}
        names: dict[str, list[int]] = {}
        for index in sorted(outermost - of_graphs):
            names.setdefault(self.trace.host[index].name, []).append(index)
        return [
            self._finding(
                "compile work",
                f"{format_number(self._ms(spans))} ms of compile work inside the steps",
                count=len(spans),
                idle_ms=self._idle_ms(spans),
                operator=name,
            )
            for name, spans in names.items()
        ]

    def cuda_graphs(self, log: CompileLog | None, are_requested: bool) -> list[Finding]:
        """Return CUDA graphs that were requested and not used, replay in pieces, or are recorded in the steps."""
        launches = list(graph_replays(self.trace, self.compiled))
        recordings = graph_recordings(self.trace)
        graphs = [*self._split_graphs(launches), *self._recorded(recordings)]
        if log and log.cudagraph_skips:
            reason = "; ".join(log.cudagraph_reasons) or "inductor skipped the CUDA graph"
            skips = self._no_graph(log.cudagraph_skips, float(log.cudagraph_skips), reason, self.trace.steps)
            return [msgspec.structs.replace(skips, source=", ".join(log.cudagraph_sources)), *graphs]
        used = [*recordings, *(index for index, _ in launches)]
        steps = self._steps_without(used) if are_requested else []
        if steps:
            count = len(steps)
            share = "no step replays a" if count == self.steps else f"{count} of {self.steps} steps replay no"
            reason = f"requested, but {share} CUDA graph"
            return [self._no_graph(count, count / self.steps, reason, steps), *graphs]
        return graphs

    def _steps_without(self, indices: Iterable[int]) -> list[Event]:
        """Return the steps in which none of these host events begins."""
        times = [self.trace.host[index].ts for index in indices]
        return [step for step in self.trace.steps if not any(step.ts <= time < step.end for time in times)]

    def _group_waits(self, waits: Iterable[Wait], steps: int) -> list[Finding]:
        """Return one finding for each cause of a wait, the most expensive first."""
        groups: dict[tuple[str, str, str], list[Wait]] = {}
        for wait in waits:
            groups.setdefault((wait.operator, wait.reason, wait.source), []).append(wait)
        findings = [
            Finding(
                kind="device sync",
                count=len(group),
                count_per_step=len(group) / steps,
                idle_ms_per_step=self._idle_ms_of_waits(group, steps),
                operator=operator,
                reason=reason,
                source=source,
            )
            for (operator, reason, source), group in groups.items()
        ]
        return sorted(findings, key=lambda finding: -(finding.idle_ms_per_step or 0.0))

    def _idle_ms_of_waits(self, waits: Iterable[Wait], steps: int) -> float | None:
        """Return the idle time per step around the ends of waits.

        Until a wait ends, the GPU had work, or there was nothing to wait for. Without the wait the next work would have
        been launched sooner by no more than the wait took.
        """
        if self.idle_costs is None:
            return None
        total = 0.0
        for wait in waits:
            calls = [self.trace.host[index] for index in wait.calls]
            end, waited = max(call.end for call in calls), sum(call.dur for call in calls)
            total += self.idle_costs.charge(end, end, waited)
        return total / 1000 / steps

    def _idle_ms(self, indices: Iterable[int]) -> float | None:
        """Return the idle time per step around host events, of each for no longer than it took."""
        if self.idle_costs is None:
            return None
        events = (self.trace.host[index] for index in indices)
        return sum(self.idle_costs.charge(event.ts, event.end, event.dur) for event in events) / 1000 / self.steps

    def _idle_ms_at(self, indices: Iterable[int]) -> float | None:
        """Return the idle time per step around the begin of host events."""
        if self.idle_costs is None:
            return None
        starts = (self.trace.host[index].ts for index in indices)
        return sum(self.idle_costs.charge(start, start) for start in starts) / 1000 / self.steps

    def _ms(self, indices: Iterable[int]) -> float:
        return sum(self.trace.host[index].dur for index in indices) / 1000

    def _finding(
        self,
        kind: FindingKind,
        reason: str,
        *,
        count: int,
        idle_ms: float | None,
        per_step: float | None = None,
        operator: str = "torch.compile",
        source: str = "",
    ) -> Finding:
        return Finding(
            kind=kind,
            count=count,
            count_per_step=count / self.steps if per_step is None else per_step,
            idle_ms_per_step=idle_ms,
            operator=operator,
            reason=reason,
            source=source,
        )

    def _reported_break(self, entry: GraphBreak) -> Finding:
        runs = [index for index, frame in self.compiled.regions.items() if frame in entry.frames]
        if not runs:
            # A skipped frame leaves no region to count. Assume that each of its lines runs once per step.
            return self._finding(
                "graph break", entry.reason, count=entry.count, per_step=float(entry.count), idle_ms=None,
                source=entry.source,
            )  # fmt: skip
        idle_ms = self._idle_ms_at(runs)
        return self._finding("graph break", entry.reason, count=len(runs), idle_ms=idle_ms, source=entry.source)

    def _nested(self, inner: Sequence[int]) -> Finding:
        frames = list(dict.fromkeys(self.compiled.regions[index] for index in inner))
        reason = f"compiled region {_listed(frames)} runs inside another, so the outer graph ends there"
        if len(frames) > 1:
            reason = f"compiled regions {_listed(frames)} run inside others, so the outer graphs end there"
        return self._finding("graph break", reason, count=len(inner), idle_ms=self._idle_ms_at(inner))

    def _failed_lookups(self) -> list[Finding]:
        lookups = failed_lookups(self.trace, self.compiled)
        reason = "a look-up of compiled code failed: the function runs uncompiled (recompile limit?)"
        idle_ms = self._idle_ms(lookups)
        return [self._finding("graph break", reason, count=len(lookups), idle_ms=idle_ms)] if lookups else []

    def _no_graph(self, count: int, per_step: float, reason: str, steps: Sequence[Event]) -> Finding:
        """Return the finding of a missing CUDA graph.

        Its idle time is the time that the GPU waits for launches in these steps: a CUDA graph cannot save more.
        """
        idle_ms = None
        if self.idle_costs:
            idle_ms = sum(self.idle_costs.rest(step.ts, step.end) for step in steps) / 1000 / self.steps
        return self._finding("cuda graph", reason, count=count, per_step=per_step, idle_ms=idle_ms)

    def _recorded(self, recordings: Sequence[int]) -> list[Finding]:
        if not recordings:
            return []
        reason = "a CUDA graph is recorded inside the steps, where it should only replay"
        return [self._finding("cuda graph", reason, count=len(recordings), idle_ms=self._idle_ms(recordings))]

    def _split_graphs(self, launches: Iterable[tuple[int, int]]) -> list[Finding]:
        """Return the finding of compiled regions that replay more than one CUDA graph."""
        replays: dict[int, list[int]] = {}
        for index, region in launches:
            if region >= 0:
                replays.setdefault(region, []).append(index)
        extra = [index for indices in replays.values() for index in indices[1:]]
        if not extra:
            return []
        count = max(map(len, replays.values()))
        reason = f"a compiled region replays {count} CUDA graphs instead of one: the code between cannot be captured"
        return [self._finding("cuda graph", reason, count=len(extra), idle_ms=self._idle_ms_at(extra))]


def _listed(names: Sequence[str]) -> str:
    """Return the first names and the number of the others."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _place(wait: Wait | Finding) -> tuple[str, str, str]:
    """Return where a wait is and what it copies. Which of its calls took longer may differ from step to step."""
    return wait.operator, wait.reason.partition(" for Memcpy")[2], wait.source


def _frame(compile_id: str) -> str:
    return compile_id.partition("/")[0]


def recompiles_between(before: CompileLog, after: CompileLog, calls: int) -> list[Finding]:
    """Return the compilations between two reads of the log, for timed windows without a trace."""
    old = {entry.id for entry in (*before.compilations, *before.fallbacks)}
    new = [entry for entry in after.compilations if entry.id not in old]
    compiled = [compile_finding(entry, 1, calls, None) for entry in new]
    return compiled + [fallback_finding(entry) for entry in after.fallbacks if entry.id not in old]


def compile_finding(entry: Compilation, count: int, times: int, idle_ms: float | None) -> Finding:
    """Return the finding of a compilation inside the steps."""
    return Finding(
        kind="recompile",
        count=count,
        count_per_step=count / times,
        idle_ms_per_step=idle_ms,
        operator=entry.function or f"graph {entry.id}",
        reason=f"guard failed: {entry.reason}" if entry.reason else "first compiled after warm-up",
        source=entry.source,
    )


def fallback_finding(entry: Compilation) -> Finding:
    """Return the finding of a function that runs uncompiled because it was recompiled too often."""
    return Finding(
        kind="recompile",
        count=1,
        count_per_step=1.0,
        idle_ms_per_step=None,
        operator=entry.function or f"graph {entry.id}",
        reason=f"recompile limit reached, runs uncompiled; last failed guard: {entry.reason or 'unknown'}",
        source=entry.source,
    )


def _unknown(graph: str, unknown: Sequence[str]) -> Compilation:
    """Return the compilation of a graph that no log names. First compilations are one cause, and so are others."""
    is_first = graph.endswith("/0")
    reason = "" if is_first else "of an earlier graph of the same function (TORCH_LOGS=recompiles names it)"
    same = [other for other in unknown if other.endswith("/0") == is_first]
    name = f"graphs {_listed(same)}" if len(same) > 1 else ""
    return Compilation(id=same[0], function=name, reason=reason, source="")

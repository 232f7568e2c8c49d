"""The rules of the gate: one function a kind of finding, each over the marked steps only. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from tuner.records.gate import Finding, FindingKind
from tuner.trace import sources
from tuner.trace.compile_log import Compilation, CompileLog, GraphBreak
from tuner.trace.enclosing import EnclosingEvent
from tuner.trace.idle import IdleCosts
from tuner.trace.read import Event, Trace
from tuner.trace.regions import (
    failed_lookups,
    find_regions,
    graph_recordings,
    graph_replays,
    nested_regions,
    outermost_work,
)
from tuner.trace.waits import Wait, find_waits, without_profiler_waits

_ONCE = " (outside the steps: paid once an image)"


class Findings:
    """Makes the findings of a trace. The GPU's idle time is charged to the first that asks: waits before all others.

    `is_gpu` says whether there is a GPU whose idle time can be a price; it is none where the steps left it no work.
    """

    def __init__(self, trace: Trace, is_gpu: bool) -> None:
        self.trace = trace
        self.found = find_regions(trace)
        self.prices = IdleCosts(trace) if is_gpu and trace.gpu_work else None
        self.steps = max(1, len(trace.steps))
        self.outer_work = outermost_work(trace, self.found)
        self.frames = {*self.found.regions.values(), *map(_frame, self.found.graphs.values())}

    def syncs(self) -> list[Finding]:
        """Return the CPU's waits for the GPU, grouped by cause; those of compile work are a part of it."""
        work = EnclosingEvent(self.trace, self.found.work.__contains__)
        waits = [wait for wait in find_waits(self.trace) if work(wait.index) < 0]
        return self._alike(without_profiler_waits(self.trace, waits) if self.trace.is_unmarked else waits, self.steps)

    def syncs_of_first_step(self, steady: Sequence[Finding]) -> list[Finding]:
        """Return the waits of the loop's first step that steady steps do not have: they are paid once an image."""
        first = self.trace.first
        if first is None:
            return []
        left = Counter({_alike(finding): math.ceil(finding.count_per_step) for finding in steady})
        more = []
        for wait in find_waits(self.trace, self.trace.indices_between(first.ts, first.end)):
            if left[_alike(wait)] > 0:
                left[_alike(wait)] -= 1
            else:
                more.append(wait)
        return self._alike(more, 1)

    def graph_breaks(self, log: CompileLog | None) -> list[Finding]:
        """Return the breaks that dynamo reported, else those that the trace shows: a compiled region in another."""
        reported = [entry for entry in log.breaks if not self._is_once(entry.frames, entry.source)] if log else []
        if reported:
            return [self._reported_break(entry) for entry in reported]
        inner: dict[str, list[int]] = {}
        for index in nested_regions(self.trace, self.found):
            inner.setdefault(self.found.regions[index], []).append(index)
        return [self._nested(frame, indices) for frame, indices in sorted(inner.items())]

    def outside_denoiser(self, log: CompileLog | None) -> list[Finding]:
        """Return what dynamo reported of autoencoders and text encoders, which run before and after the steps."""
        if not log:
            return []
        breaks = [entry for entry in log.breaks if self._is_once(entry.frames, entry.source)]
        gave_up = {entry.id: entry for entry in log.fallbacks if self._is_once_given_up(entry)}
        found = [*map(self._reported_break, breaks), *map(fallback_finding, gave_up.values())]
        return [msgspec.structs.replace(one, reason=f"{one.reason}{_ONCE}") for one in found]

    def _is_once(self, frames: Iterable[str], line: str) -> bool:
        """Return whether something is clearly not the denoiser's: never compiled in the steps, nor its code."""
        return self.frames.isdisjoint(frames) and sources.is_outside_denoiser(line)

    def _is_once_given_up(self, entry: Compilation) -> bool:
        return self._is_once((_frame(entry.id),), entry.source)

    def recompiles(self, log: CompileLog | None) -> list[Finding]:
        """Compilations inside the steps, which warm-up should have had, and functions that dynamo gave up compiling."""
        known = {entry.id: entry for entry in log.compilations} if log else {}
        limits = {entry.id: entry for entry in log.fallbacks if not self._is_once_given_up(entry)} if log else {}
        inside: dict[str, list[int]] = {}
        for index, graph in self.found.graphs.items():
            inside.setdefault(graph, []).append(self.outer_work[index])
        compiled = [
            compile_finding(known.get(graph) or _unknown(graph), len(spans), self.steps, self._price(spans))
            for graph, spans in inside.items()
            if graph not in limits
        ]
        gave_up = [fallback_finding(entry) for entry in limits.values()] if log else self._unanswered()
        return compiled + gave_up

    def compile_work(self) -> list[Finding]:
        """Return other compiler work inside the steps: autotuning, loading of code, anything but a new graph."""
        outermost = {self.outer_work[index] for index in self.found.work}
        of_graphs = {self.outer_work[index] for index in self.found.graphs}
        names: dict[str, list[int]] = {}
        for index in sorted(outermost - of_graphs):
            names.setdefault(self.trace.host[index].name, []).append(index)
        return [
            self._finding(
                "compile work",
                f"{self._ms(spans):.3g} ms of compile work inside the steps",
                count=len(spans),
                idle_ms=self._price(spans),
                operator=name,
            )
            for name, spans in names.items()
        ]

    def cuda_graphs(self, log: CompileLog | None, asked: bool) -> list[Finding]:
        """CUDA graphs that were asked for and not used, that replay in pieces, or that are recorded in the steps."""
        launches = list(graph_replays(self.trace, self.found))
        anew = graph_recordings(self.trace)
        pieces = [*self._pieces(launches), *self._recorded(anew)]
        if log and log.cudagraph_skips:
            reason = "; ".join(log.cudagraph_reasons) or "inductor skipped the CUDA graph"
            skips = self._no_graph(log.cudagraph_skips, float(log.cudagraph_skips), reason, self.trace.steps)
            return [msgspec.structs.replace(skips, source=", ".join(log.cudagraph_sources)), *pieces]
        without = self._steps_without([*anew, *(index for index, _ in launches)]) if asked else []
        if without:
            count = len(without)
            who = "no step replays a" if count == self.steps else f"{count} of {self.steps} steps replay no"
            reason = f"asked for, and {who} CUDA graph"
            return [self._no_graph(count, count / self.steps, reason, without), *pieces]
        return pieces

    def _steps_without(self, launches: Iterable[int]) -> list[Event]:
        """Return the steps in which none of some events of the host begins."""
        times = [self.trace.host[index].ts for index in launches]
        return [step for step in self.trace.steps if not any(step.ts <= time < step.end for time in times)]

    def _alike(self, found: Iterable[Wait], steps: int) -> list[Finding]:
        groups: dict[tuple[str, str, str], list[int]] = {}
        for wait in found:
            groups.setdefault(_alike(wait), []).append(wait.index)
        findings = [
            Finding(
                kind="device sync",
                count=len(alike),
                count_per_step=len(alike) / steps,
                idle_ms_per_step=self._price_of_waits(alike, steps),
                operator=operator,
                reason=reason,
                source=source,
            )
            for (operator, reason, source), alike in groups.items()
        ]
        return sorted(findings, key=lambda finding: -(finding.idle_ms_per_step or 0.0))

    def _price_of_waits(self, indices: Iterable[int], steps: int) -> float | None:
        """Return the idle time that begins before a wait ends: until then the GPU had work, or nothing to wait for."""
        if self.prices is None:
            return None
        ends = (self.trace.host[index].end for index in indices)
        return sum(self.prices.charge(end, end) for end in ends) / 1000 / steps

    def _price(self, indices: Iterable[int]) -> float | None:
        """Return the idle time while some events of the host ran, and until the GPU's next work."""
        if self.prices is None:
            return None
        events = (self.trace.host[index] for index in indices)
        return sum(self.prices.charge(event.ts, event.end) for event in events) / 1000 / self.steps

    def _price_at(self, indices: Iterable[int]) -> float | None:
        """Return the idle time around the moment at which some events of the host begin."""
        if self.prices is None:
            return None
        starts = (self.trace.host[index].ts for index in indices)
        return sum(self.prices.charge(start, start) for start in starts) / 1000 / self.steps

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
        runs = [index for index, frame in self.found.regions.items() if frame in entry.frames]
        if not runs:
            # A skipped frame leaves no region to count; each of its places is then taken to run once a step.
            return self._finding(
                "graph break", entry.reason, count=entry.count, per_step=float(entry.count), idle_ms=None,
                source=entry.source,
            )  # fmt: skip
        price = self._price_at(runs)
        return self._finding("graph break", entry.reason, count=len(runs), idle_ms=price, source=entry.source)

    def _nested(self, frame: str, inner: Sequence[int]) -> Finding:
        reason = f"compiled region {frame} runs inside another: the outer graph ends there"
        return self._finding("graph break", reason, count=len(inner), idle_ms=self._price_at(inner))

    def _unanswered(self) -> list[Finding]:
        lookups = failed_lookups(self.trace, self.found)
        reason = "compiled code was looked for and none ran: the function runs uncompiled (recompile limit?)"
        price = self._price(lookups)
        return [self._finding("graph break", reason, count=len(lookups), idle_ms=price)] if lookups else []

    def _no_graph(self, count: int, per_step: float, reason: str, steps: Sequence[Event]) -> Finding:
        """Return the finding of a missing CUDA graph.

        Its price is the time that the GPU waits for launches in the steps: no CUDA graph can save more.
        """
        left = None
        if self.prices:
            left = sum(self.prices.rest(step.ts, step.end) for step in steps) / 1000 / self.steps
        return self._finding("cuda graph", reason, count=count, per_step=per_step, idle_ms=left)

    def _recorded(self, anew: Sequence[int]) -> list[Finding]:
        reason = "a CUDA graph is recorded inside the steps, where it should only replay"
        return [self._finding("cuda graph", reason, count=len(anew), idle_ms=self._price(anew))] if anew else []

    def _pieces(self, launches: Iterable[tuple[int, int]]) -> list[Finding]:
        of_region: dict[int, list[int]] = {}
        for index, region in launches:
            if region >= 0:
                of_region.setdefault(region, []).append(index)
        later = [index for replayed in of_region.values() for index in replayed[1:]]
        if not later:
            return []
        most = max(map(len, of_region.values()))
        reason = f"a compiled region replays {most} CUDA graphs and not one: what is between cannot be captured"
        return [self._finding("cuda graph", reason, count=len(later), idle_ms=self._price_at(later))]


def _alike(wait: Wait | Finding) -> tuple[str, str, str]:
    return wait.operator, wait.reason, wait.source


def _frame(compile_id: str) -> str:
    return compile_id.partition("/")[0]


def recompiles_between(before: CompileLog, after: CompileLog, calls: int) -> list[Finding]:
    """Compilations between two readings of the log, for windows that are timed and not traced."""
    old = {entry.id for entry in (*before.compilations, *before.fallbacks)}
    new = [entry for entry in after.compilations if entry.id not in old]
    found = [compile_finding(entry, 1, calls, None) for entry in new]
    return found + [fallback_finding(entry) for entry in after.fallbacks if entry.id not in old]


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
        reason=f"recompile limit reached, runs uncompiled; last guard that failed: {entry.reason or 'unknown'}",
        source=entry.source,
    )


def _unknown(graph: str) -> Compilation:
    is_first = graph.endswith("/0")
    reason = "" if is_first else "of an earlier graph of the same function (TORCH_LOGS=recompiles names it)"
    return Compilation(id=graph, function="", reason=reason, source="")

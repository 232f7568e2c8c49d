"""Read a trace of any program and judge it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tuner.records.codec import Record
from tuner.records.gate import GatePolicy, TraceSummary, Verdict
from tuner.report.formatting import pluralize
from tuner.trace import gate, read
from tuner.trace.summary import summarise

WHOLE_TRACE = "the whole trace"


class TraceReport(Record):
    """The findings of a trace file; `gpu` is None if the profiled machine had none.

    `process` is the one that was judged, out of `processes` in the file. `untimed_gpu_events` have no time.
    """

    file: str
    gpu: str | None
    judged: str
    summary: TraceSummary
    verdict: Verdict
    process: str = ""
    processes: int = 1
    untimed_gpu_events: int = 0


class ExaminedTrace(NamedTuple):
    """A trace and its report."""

    trace: read.Trace
    report: TraceReport


def examine_trace(path: Path, max_idle_ms_per_step: float = 0.0) -> ExaminedTrace:
    """Read a trace and judge it: of several processes the worst. Raises BadInput if the file is not a trace."""
    policy = GatePolicy(max_idle_ms_per_step=max_idle_ms_per_step)
    traces = [read.ensure_steps(trace) for trace in read.load_all(path)]
    verdicts = [gate.judge_without_log(trace, policy) for trace in traces]
    trace, verdict = min(zip(traces, verdicts, strict=True), key=lambda judged: _badness(judged[1]))
    report = TraceReport(
        file=str(path),
        gpu=trace.gpu,
        judged=WHOLE_TRACE if trace.is_unmarked else pluralize(len(trace.steps), "marked step"),
        summary=summarise(trace),
        verdict=verdict,
        process=trace.process,
        processes=len(traces),
        untimed_gpu_events=trace.untimed,
    )
    return ExaminedTrace(trace, report)


def _badness(verdict: Verdict) -> tuple[int, float]:
    idle_ms = sum(finding.idle_ms_per_step or 0.0 for finding in verdict.undeclared())
    return ("rejected", "inconclusive", "clean").index(verdict.status), -idle_ms

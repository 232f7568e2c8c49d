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
    """The findings of a trace file; `gpu` is None if the profiled machine had none."""

    file: str
    gpu: str | None
    judged: str
    summary: TraceSummary
    verdict: Verdict


class ExaminedTrace(NamedTuple):
    """A trace and its report."""

    trace: read.Trace
    report: TraceReport


def examine_trace(path: Path, max_idle_ms_per_step: float = 0.0) -> ExaminedTrace:
    """Read a trace and judge it. Raises BadInput if the file is not a trace."""
    trace = read.ensure_steps(read.load(path))
    verdict = gate.judge_without_log(trace, GatePolicy(max_idle_ms_per_step=max_idle_ms_per_step))
    judged = WHOLE_TRACE if trace.is_unmarked else pluralize(len(trace.steps), "marked step")
    report = TraceReport(file=str(path), gpu=trace.gpu, judged=judged, summary=summarise(trace), verdict=verdict)
    return ExaminedTrace(trace, report)

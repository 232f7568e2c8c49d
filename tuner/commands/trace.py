"""`tune trace`: what a trace of any program shows, as a record and as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from tuner.records.codec import Record
from tuner.records.gate import Copies, Finding, GatePolicy, TraceSummary, Verdict
from tuner.report.console import BASELINE, QUIET
from tuner.report.formatting import format_number, one_line, pluralize, section, shorten, wrap_text
from tuner.report.timeline import TimeLine
from tuner.trace import gate, read
from tuner.trace.summary import summarise

EXIT_CODES = {"clean": 0, "rejected": 1, "inconclusive": 1}

WHOLE = "the whole trace"

_STYLES = {"clean": "bold green", "rejected": "bold red", "inconclusive": "bold yellow"}
_LISTED = 12
_SMALLEST = 0.005
_NAMES = 5
_NAME = 60


class TraceReport(Record):
    """What a trace file shows; `gpu` is None where the profiled machine had none."""

    file: str
    gpu: str | None
    judged: str
    summary: TraceSummary
    verdict: Verdict


@dataclass(frozen=True)
class Examined:
    """A trace as it was read, and what it shows."""

    trace: read.Trace
    report: TraceReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, report = options.max_width, self.report
        per = _per(report)
        yield from wrap_text("", _headline(report), width, _STYLES[report.verdict.status])
        yield from wrap_text("", _about(report), width, QUIET)
        yield Text("")
        yield from _findings(report.verdict, per, width)
        yield TimeLine(self.trace, report.verdict)
        yield Text("")
        yield from section(
            f"Where the time goes, in shares of {_ms(report.summary.step_ms)}", _times(report.summary, per), width
        )
        yield Text("Not checked", style=BASELINE)
        for text in report.verdict.skipped:
            yield from wrap_text("- ", text, width, indent=2)


def examine_trace(path: Path, max_idle_ms_per_step: float = 0.0) -> Examined:
    """Read a trace and judge it; BadInput names the file when it is none."""
    trace = read.ensure_steps(read.load(path))
    verdict = gate.judge_without_log(trace, GatePolicy(max_idle_ms_per_step=max_idle_ms_per_step))
    judged = WHOLE if trace.is_unmarked else f"{pluralize(len(trace.steps), 'marked step')}"
    report = TraceReport(file=str(path), gpu=trace.gpu, judged=judged, summary=summarise(trace), verdict=verdict)
    return Examined(trace, report)


# ---- the verdict ----------------------------------------------------------------------------------------------------


def _headline(report: TraceReport) -> str:
    return _HEADLINES[report.verdict.status](report)


def _clean(report: TraceReport) -> str:
    tolerated = report.verdict.findings
    but = f"but for {pluralize(len(tolerated), 'tolerated finding')} " if tolerated else ""
    return f"CLEAN as far as a trace tells: {but}nothing breaks a compiled graph" + (
        " or makes the CPU wait for the GPU" if report.gpu else ""
    )


def _rejected(report: TraceReport) -> str:
    undeclared = report.verdict.undeclared()
    headline = f"REJECTED: {pluralize(len(undeclared), 'finding')}"
    prices = [finding.idle_ms_per_step for finding in undeclared if finding.idle_ms_per_step is not None]
    if len(prices) < len(undeclared):
        return headline
    cost, step = sum(prices), report.summary.step_ms
    share = cost / step if step else 0.0
    return f"{headline}; the GPU idles {_ms(cost)} {_per(report)} because of that, {share:.0%} of the time"


def _inconclusive(report: TraceReport) -> str:
    return f"INCONCLUSIVE: {report.verdict.skipped[0].partition(': ')[2]}"


_HEADLINES = {"clean": _clean, "rejected": _rejected, "inconclusive": _inconclusive}


def _per(report: TraceReport) -> str:
    return "in all" if report.judged == WHOLE else "a step"


def _about(report: TraceReport) -> str:
    name, step = one_line(Path(report.file).name), report.summary.step_ms
    return (
        f"{name}: {one_line(report.gpu or 'no GPU')}, {report.summary.events:,} events; "
        f"judged: {report.judged}, {_ms(step)}" + ("" if report.judged == WHOLE else " each")
    )


def _findings(verdict: Verdict, per: str, width: int) -> Iterator[Text]:
    for number, finding in enumerate(verdict.findings[:_LISTED], 1):
        yield from _finding(f"{number:>2} ", finding, per, width)
    for finding in verdict.warnings[:_LISTED]:
        where = "in the first step only" if finding.kind == "device sync" else "outside the steps"
        yield from _finding(" - ", finding, f"{where}, which rejects nothing", width)
    more = sum(max(0, len(found) - _LISTED) for found in (verdict.findings, verdict.warnings))
    if more:
        yield from wrap_text("   ", f"and {more:,} more, all of which --json lists", width, QUIET)
    if verdict.findings or verdict.warnings:
        yield Text("")


def _finding(mark: str, finding: Finding, when: str, width: int) -> Iterator[Text]:
    price = "" if finding.idle_ms_per_step is None else f": the GPU idles {_ms(finding.idle_ms_per_step)}"
    tolerated = f" (tolerated: {finding.allowed_by})" if finding.allowed_by else ""
    count = f"{finding.kind}, {_count(finding.count_per_step)} {when}"
    yield from wrap_text(mark, f"{count}{price}{tolerated}", width, BASELINE)
    source = f"at {one_line(finding.source)}" if finding.source else ""
    for text in (one_line(finding.operator), one_line(finding.reason), source):
        yield from wrap_text("   ", text, width)


# ---- the summary ----------------------------------------------------------------------------------------------------


def _times(summary: TraceSummary, per: str) -> list[tuple[str, str]]:
    """One row for each thing that the trace says; what it says nothing of has none."""
    who = "CPU" if summary.gpu_busy_share is None else "GPU"
    rows = [
        ("GPU", _gpu_text(summary)),
        ("launches", _launches_text(summary, per)),
        (f"{who} by class", _shares(summary.classes.items())),
        (f"{who} by part", _shares(summary.components.items()) if len(summary.components) > 1 else ""),
        ("operators", _shares(summary.top_operators)),
        ("kernels", _shares(summary.top_kernels)),
        ("copies", "; ".join(_copies_text(copies, per) for copies in summary.copies)),
    ]
    return [(name, text) for name, text in rows if text]


def _gpu_text(summary: TraceSummary) -> str:
    if summary.gpu_busy_share is None:
        return ""
    idle = (
        (summary.host_wait_share, "waiting for the CPU's next launch"),
        (summary.kernel_wait_share, "between queued kernels"),
        (summary.other_wait_share, "idle otherwise"),
    )
    parts = [f"busy {summary.gpu_busy_share:.0%}", *(f"{share:.0%} {word}" for share, word in idle if share)]
    return ", ".join(parts)


def _launches_text(summary: TraceSummary, per: str) -> str:
    if summary.launches_per_step is None:
        return ""
    text = f"{_count(summary.launches_per_step)} {per}"
    if summary.graph_launches_per_step:
        text += f", {_count(summary.graph_launches_per_step)} of them CUDA graphs with "
        text += f"{summary.graph_kernel_share or 0.0:.0%} of all kernels"
    return text


def _shares(named: Iterable[tuple[str, float]]) -> str:
    large = [(name, share) for name, share in named if share >= _SMALLEST]
    return ", ".join(f"{share:.0%} {shorten(one_line(name), _NAME)}" for name, share in large[:_NAMES])


def _copies_text(copies: Copies, per: str) -> str:
    size = f"{format_number(copies.bytes_per_step / 1e6)} MB" if copies.bytes_per_step else "of unknown size"
    return f"{_count(copies.count_per_step)} {copies.direction} {per}, {size} in {_ms(copies.ms_per_step)}"


def _ms(value_ms: float) -> str:
    return f"{format_number(value_ms)} ms" if value_ms >= 0.001 else "0 ms"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

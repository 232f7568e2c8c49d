"""Render the report of a trace for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from tuner.commands.trace.report import WHOLE_TRACE, ExaminedTrace, TraceReport
from tuner.numbers import format_exact, format_number
from tuner.records.gate import Copies, Finding, TraceSummary, Verdict
from tuner.report.console import BASELINE, QUIET
from tuner.report.formatting import one_line, pluralize, section, shorten, wrap_text
from tuner.report.timeline import TimeLine

STYLES = {"clean": "bold green", "rejected": "bold red", "inconclusive": "bold yellow"}
MAX_FINDINGS = 12
MIN_SHARE = 0.005
"""Smaller shares of the time are not listed."""

MAX_NAMES = 5
MAX_NAME_LENGTH = 60


@dataclass(frozen=True)
class TraceText:
    """An examined trace as text: the verdict, the findings, a time line and where the time goes."""

    examined: ExaminedTrace

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, (trace, report) = options.max_width, self.examined
        per = _per(report)
        yield from wrap_text("", _headline(report), width, STYLES[report.verdict.status])
        yield from wrap_text("", _about(report), width, QUIET)
        yield Text("")
        yield from _findings(report.verdict, per, width)
        yield TimeLine(trace, report.verdict)
        yield Text("")
        title = f"Where the time goes, in shares of {_ms(report.summary.step_ms)}"
        yield from section(title, _time_rows(report.summary, per, report.untimed_gpu_events), width)
        yield Text("Not checked", style=BASELINE)
        for text in report.verdict.skipped:
            yield from wrap_text("- ", text, width, indent=2)


# ---- the verdict ----------------------------------------------------------------------------------------------------


def _headline(report: TraceReport) -> str:
    headlines = {"clean": _clean_headline, "rejected": _rejected_headline, "inconclusive": _inconclusive_headline}
    untimed = report.untimed_gpu_events
    note = f"; {pluralize(untimed, 'GPU event')} without a time left out, so idle time is unknown"
    return headlines[report.verdict.status](report) + (note if untimed else "")


def _clean_headline(report: TraceReport) -> str:
    problems = "graph breaks, recompiles or device syncs" if report.gpu else "graph breaks or recompiles"
    accepted = report.verdict.findings
    note = f" ({pluralize(len(accepted), 'accepted finding')})" if accepted else ""
    return f"CLEAN: no {problems}{note}"


def _rejected_headline(report: TraceReport) -> str:
    undeclared = report.verdict.undeclared()
    headline = f"REJECTED: {pluralize(len(undeclared), 'finding')}"
    idle_ms = [finding.idle_ms_per_step for finding in undeclared if finding.idle_ms_per_step is not None]
    if len(idle_ms) < len(undeclared):
        return headline
    total_ms, step_ms = sum(idle_ms), report.summary.step_ms
    share = total_ms / step_ms if step_ms else 0.0
    return f"{headline}; they leave the GPU idle for {_ms(total_ms)} {_per(report)}, {share:.0%} of the time"


def _inconclusive_headline(report: TraceReport) -> str:
    return f"INCONCLUSIVE: {report.verdict.skipped[0].partition(': ')[2]}"


def _per(report: TraceReport) -> str:
    return "in total" if report.judged == WHOLE_TRACE else "per step"


def _about(report: TraceReport) -> str:
    name, step_ms = one_line(Path(report.file).name), report.summary.step_ms
    each = "" if report.judged == WHOLE_TRACE else " each"
    gpu = one_line(report.gpu or "no GPU")
    of = f" of {one_line(report.process)}" if report.process else ""
    worst = f", the worst of {report.processes} processes" if report.processes > 1 else ""
    judged = f"{report.judged}{of}{worst}, {_ms(step_ms)}{each}"
    return f"{name}: {gpu}, {report.summary.events:,} events; judged: {judged}"


def _findings(verdict: Verdict, per: str, width: int) -> Iterator[Text]:
    for number, finding in enumerate(verdict.findings[:MAX_FINDINGS], 1):
        yield from _finding(f"{number:>2} ", finding, per, width)
    for finding in verdict.warnings[:MAX_FINDINGS]:
        place = "in the first step only" if finding.kind == "device sync" else "outside the steps"
        yield from _finding(" - ", finding, f"{place} (not counted against the trace)", width)
    more = sum(max(0, len(listed) - MAX_FINDINGS) for listed in (verdict.findings, verdict.warnings))
    if more:
        yield from wrap_text("   ", f"and {more:,} more; --json lists all", width, QUIET)
    if verdict.findings or verdict.warnings:
        yield Text("")


def _finding(mark: str, finding: Finding, when: str, width: int) -> Iterator[Text]:
    idle = "" if finding.idle_ms_per_step is None else f": the GPU idles {_ms(finding.idle_ms_per_step)}"
    accepted = f" (accepted: {finding.allowed_by})" if finding.allowed_by else ""
    count = f"{finding.kind}, {_count(finding.count_per_step)} {when}"
    yield from wrap_text(mark, f"{count}{idle}{accepted}", width, BASELINE)
    source = f"at {one_line(finding.source)}" if finding.source else ""
    for text in (one_line(finding.operator), one_line(finding.reason), source):
        yield from wrap_text("   ", text, width)


# ---- the summary ----------------------------------------------------------------------------------------------------


def _time_rows(summary: TraceSummary, per: str, untimed: int) -> list[tuple[str, str]]:
    """List a label and a text for everything that the trace contains."""
    device = "CPU" if summary.gpu_busy_share is None else "GPU"
    rows = [
        ("GPU", _gpu_text(summary, untimed)),
        ("launches", _launches_text(summary, per)),
        (f"{device} by class", _shares(summary.classes.items()) + _overlap(summary)),
        (f"{device} by part", _shares(summary.components.items()) if len(summary.components) > 1 else ""),
        ("operators", _shares(summary.top_operators)),
        ("kernels", _shares(summary.top_kernels)),
        ("copies", "; ".join(_copies_text(copies, per) for copies in summary.copies)),
    ]
    return [(name, text) for name, text in rows if text]


def _gpu_text(summary: TraceSummary, untimed: int) -> str:
    if summary.gpu_busy_share is None:
        return ""
    if untimed:
        events = pluralize(untimed, "GPU event")
        return f"busy at least {summary.gpu_busy_share:.0%}; idle or not is unknown for the rest: {events} at time 0"
    idle = (
        (summary.host_wait_share, "waiting for the CPU's next launch"),
        (summary.kernel_wait_share, "between queued kernels"),
        (summary.other_wait_share, "idle otherwise"),
    )
    parts = [
        f"busy {summary.gpu_busy_share:.0%}",
        *(f"{share:.0%} {word}" for share, word in idle if share and share >= MIN_SHARE),
    ]
    return ", ".join(parts)


def _overlap(summary: TraceSummary) -> str:
    """Return a note if classes that ran at the same time, on several streams, add up to more than the busy time."""
    is_more = sum(summary.classes.values()) > (summary.gpu_busy_share or math.inf) + MIN_SHARE
    return " (at the same time on several streams)" if is_more else ""


def _launches_text(summary: TraceSummary, per: str) -> str:
    if summary.launches_per_step is None:
        return ""
    text = f"{_count(summary.launches_per_step)} {per}"
    if summary.graph_launches_per_step:
        text += f", {_count(summary.graph_launches_per_step)} of them CUDA graphs with "
        text += f"{summary.graph_kernel_share or 0.0:.0%} of all kernels"
    return text


def _shares(named: Iterable[tuple[str, float]]) -> str:
    large = [(name, share) for name, share in named if share >= MIN_SHARE]
    return ", ".join(f"{share:.0%} {shorten(one_line(name), MAX_NAME_LENGTH)}" for name, share in large[:MAX_NAMES])


def _copies_text(copies: Copies, per: str) -> str:
    size = f"{format_number(copies.bytes_per_step / 1e6)} MB" if copies.bytes_per_step else "of unknown size"
    return f"{_count(copies.count_per_step)} {copies.direction} {per}, {size} in {_ms(copies.ms_per_step)}"


def _ms(value_ms: float) -> str:
    return f"{format_number(value_ms)} ms" if value_ms >= 0.001 else "0 ms"


def _count(value: float) -> str:
    return format_exact(round(value, 2)) if value < 100 else format_number(value)

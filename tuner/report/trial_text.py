"""Trials and limits in one line, as both displays show them."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.numbers import (
    difference_places,
    format_clock,
    format_difference,
    format_latency_with_error,
    format_number,
    format_score,
)
from tuner.records.gate import Finding
from tuner.records.outcome import Limits, Outcome, Timing
from tuner.report.formatting import first_line, format_other_processes, one_line, pluralize, shorten
from tuner.report.trial_counts import undeclared_findings
from tuner.timing.target import meets_latency_target

MAX_MESSAGE = 120
"""Characters of another program's message; the trial's log has all of it."""

FOREIGN = ("error", "compile error", "out of memory", "disk full")
"""The kinds of failure whose message is another program's. The own ones end with what to do, and are not cut."""


def result_text(outcome: Outcome, plus_minus: str = "+-", max_message: int = MAX_MESSAGE) -> str:
    """Format a trial's numbers, the findings that rejected it, or its failure."""
    if outcome.status == "measured":
        return _measured_text(outcome, plus_minus)
    if outcome.status == "rejected":
        return findings_text(undeclared_findings(outcome))
    if outcome.failure is None:
        return "failed without a reason"
    failure, message = outcome.failure, first_line(outcome.failure.message)
    text = shorten(message, max_message) if failure.kind in FOREIGN else message
    return f"{failure.kind} in {one_line(failure.stage)}: {text}"


def _measured_text(outcome: Outcome, plus_minus: str) -> str:
    parts = []
    if outcome.timing:
        latency = outcome.timing.latency_s
        half = (latency.high - latency.low) / 2
        parts.append(format_latency_with_error(latency.value, half, plus_minus) + _qualifiers(outcome.timing))
        parts.append(f"{format_number(outcome.timing.images_per_s)} images/s")
    if outcome.cost_usd_per_1000_images is not None:
        parts.append(f"{format_number(outcome.cost_usd_per_1000_images)} US$/1000 images")
    if outcome.quality:
        quality, difference = outcome.quality, outcome.quality.difference
        parts.append(f"{one_line(quality.metric)} {format_score(quality.mean)}")
        if outcome.purpose != "baseline":
            places = difference_places([(difference.low, difference.high)], quality.mean)
            parts.append(format_difference(difference.value, difference.low, difference.high, places))
    else:
        parts.append("not scored")
    if outcome.skipped_share is not None:
        parts.append(f"work skipped in {outcome.skipped_share:.0%} of the steps")
    return ", ".join(parts)


def _qualifiers(timing: Timing) -> str:
    """Format how a latency was obtained: predicted, with discarded calls, on a shared GPU, too slow."""
    text = ""
    if timing.predicted_from:
        text += f" (predicted from {', '.join(map(str, timing.predicted_from))} steps)"
    discarded = sum(timing.gpu.discarded.values()) if timing.gpu else 0
    if discarded:
        text += f" ({pluralize(discarded, 'throttled call')} discarded)"
    if timing.stalled_calls:
        text += f" ({pluralize(timing.stalled_calls, 'stalled call')} discarded)"
    others = format_other_processes(timing.gpu.other_processes, timing.gpu.other_memory_bytes) if timing.gpu else ""
    if others:
        text += f" ({others} on the GPU)"
    return text if meets_latency_target(timing.within_target) else f"{text} (misses the latency target)"


def findings_text(findings: Sequence[Finding]) -> str:
    """Format the findings that rejected a build: kind, count and source line of the first two."""
    text = "; ".join(map(_finding_text, findings[:2])) or "rejected by the gate"
    return text + (f"; and {len(findings) - 2} more" if len(findings) > 2 else "")


def _finding_text(finding: Finding) -> str:
    count = f"{finding.kind} x{finding.count}"
    idle = finding.idle_ms_per_step
    price = f" ({format_number(idle, 2)} ms idle a step)" if idle else ""
    return f"{count} at {one_line(finding.source)}{price}"


def limits_text(limits: Limits, spent_s: float) -> str:
    """Format the budget, what earlier runs used of it, and the number of trials."""
    trials = f" or {pluralize(limits.max_trials, 'trial')}" if limits.max_trials is not None else ""
    budget = "that suits the size" if limits.budget_s is None else f"of {format_clock(limits.budget_s)}"
    used = f" ({format_clock(spent_s)} used before)" if spent_s >= 1.0 else ""
    return f"a budget {budget}{used}{trials}, after which the finalists are judged"


def trial_text(number: int, purpose: str) -> str:
    """Format a trial's number and purpose."""
    return f"trial {number} ({one_line(purpose)})"

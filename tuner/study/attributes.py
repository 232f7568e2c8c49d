"""What Optuna keeps of a trial besides its objectives, for optuna-dashboard and `study.trials_dataframe()`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tuner.records.gate import Finding
from tuner.records.outcome import Outcome
from tuner.report.formatting import one_line

Attribute = str | int | float

MAX_REASON = 500
"""Characters of a reason. Optuna's database takes at most 2048 bytes of an attribute on some servers."""


def attributes(outcome: Outcome) -> Mapping[str, Attribute]:
    """Return a trial's user attributes; what was not measured is absent."""
    return {name: value for name, value in _columns(outcome) if value is not None}


def _columns(outcome: Outcome) -> Iterator[tuple[str, Attribute | None]]:
    yield "status", outcome.status
    yield "purpose", outcome.purpose
    yield "recipe", outcome.recipe
    yield "reason", reason(outcome)
    if outcome.timing is not None:
        latency = outcome.timing.latency_s
        yield "latency_s", latency.value
        yield "latency_low_s", latency.low
        yield "latency_high_s", latency.high
        yield "images_per_s", outcome.timing.images_per_s
    if outcome.memory is not None:
        yield "peak_memory_bytes", outcome.memory.peak_bytes
    if outcome.build is not None:
        yield "first_call_s", outcome.build.first_call_s
    yield "skipped_share", outcome.skipped_share
    if outcome.quality is not None:
        yield "quality_difference", outcome.quality.difference.value


def reason(outcome: Outcome) -> str | None:
    """Return why the gate rejected a trial or why it failed, in one line; None if it was measured."""
    failure, verdict = outcome.failure, outcome.build.verdict if outcome.build else None
    if failure is not None:
        text = f"{failure.kind} in {failure.stage}: {failure.message}"
    elif outcome.status == "rejected" and verdict is not None:
        text = "; ".join(map(_finding_text, verdict.undeclared()))
    else:
        return None
    return one_line(text)[:MAX_REASON]


def _finding_text(finding: Finding) -> str:
    where = f" at {finding.source}" if finding.source else ""
    return f"{finding.kind} x{finding.count}{where}: {finding.reason}"

"""Every trial as a row of the page's table and as a mark of its plots."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tuner.numbers import format_exact, format_signed
from tuner.records.codec import Estimate
from tuner.records.outcome import Outcome
from tuner.report.formatting import label, one_line
from tuner.report.points import FrontPoint, fewer_prompts
from tuner.report.study_report import StudyReport
from tuner.report.trial_text import result_text
from tuner.result import front
from tuner.timing.target import meets_latency_target

MAX_REASON = 500
"""Characters of a failure's message; its log has all of it."""

KINDS = ("chosen", "baseline", "front", "measured", "rejected", "failed")
"""How a trial is marked, the first that is true."""


@dataclass(frozen=True)
class Trial:
    """A trial as the page shows it. What was not measured is None. `reason` says why it is not the chosen one."""

    number: int
    kind: str
    purpose: str
    label: str
    reason: str
    latency_s: float | None = None
    is_predicted: bool = False
    images_per_s: float | None = None
    cost: Estimate | None = None
    difference: Estimate | None = None
    speed_up: float | None = None
    is_doubtful: bool = False
    peak_memory_bytes: float | None = None

    def mark(self) -> dict[str, Any]:
        """Return what the plots need of it."""
        cost, difference = self.cost, self.difference
        return {
            "number": self.number,
            "kind": self.kind,
            "label": self.label,
            "reason": self.reason,
            "speed_up": self.speed_up,
            "cost": [cost.value, cost.low, cost.high] if cost else None,
            "difference": [difference.value, difference.low, difference.high] if difference else None,
        }


def trials(report: StudyReport) -> list[Trial]:
    """Return all trials by number; those of the front with the latency that all their processes show."""
    points = {point.number: point for point in report.points}
    return [_trial(report, outcome, points.get(outcome.number)) for outcome in report.outcomes]


def _trial(report: StudyReport, outcome: Outcome, point: FrontPoint | None) -> Trial:
    kind = _kind(report, outcome, point)
    timing, usd = outcome.timing, outcome.cost_usd_per_1000_images
    is_measured = outcome.status == "measured" and timing is not None
    latency_s = point.latency_s if point else timing.latency_s.value if timing and is_measured else None
    return Trial(
        number=outcome.number,
        kind=kind,
        purpose=outcome.recipe or outcome.purpose,
        label=label(report.request.space.changed(outcome.values)),
        reason=_reason(report, outcome, point, kind),
        latency_s=latency_s,
        is_predicted=point.is_predicted if point else bool(timing and timing.predicted_from),
        images_per_s=point.images_per_s if point else timing.images_per_s if timing and is_measured else None,
        cost=_cost(report, outcome, point.cost_usd_per_1000_images if point else usd) if is_measured else None,
        difference=outcome.quality.difference if outcome.quality and is_measured else None,
        is_doubtful=point is not None and point.is_doubtful,
        speed_up=point.speed_up if point else _speed_up(report, outcome) if is_measured else None,
        peak_memory_bytes=outcome.memory.peak_bytes if outcome.memory else None,
    )


def _kind(report: StudyReport, outcome: Outcome, point: FrontPoint | None) -> str:
    """Return how a trial is marked."""
    if outcome.number == report.best.chosen.trial:
        return "chosen"
    if outcome.number == report.best.baseline.trial:
        return "baseline"
    return "front" if point else outcome.status


def _cost(report: StudyReport, outcome: Outcome, usd: float | None) -> Estimate | None:
    """Return the cost with the relative interval of the latency: that over all processes, where it is known."""
    if usd is None or outcome.timing is None:
        return None
    best = report.best
    settled = {point.trial: point.latency_s for point in (*best.front, best.baseline, best.chosen)}
    latency_s = settled.get(outcome.number, outcome.timing.latency_s)
    low, high = (max(0.0, end / latency_s.value) for end in (latency_s.low, latency_s.high))
    return Estimate(value=usd, low=usd * low, high=usd * high)


def _speed_up(report: StudyReport, outcome: Outcome) -> float | None:
    before = report.best.baseline.images_per_s
    return outcome.timing.images_per_s / before if outcome.timing and before > 0 else None


# ---- reasons --------------------------------------------------------------------------------------------------------


def _reason(report: StudyReport, outcome: Outcome, point: FrontPoint | None, kind: str) -> str:
    """Return why a trial was rejected, failed, or was measured and is not the chosen one."""
    if outcome.status != "measured":
        return result_text(outcome, max_message=MAX_REASON)
    fixed = {
        "chosen": "the cheapest that is as good",
        "baseline": "the untouched pipeline, which all are compared with",
    }
    text = fixed.get(kind) or _why_not(report, outcome, point)
    flags = outcome.quality.flags if outcome.quality else ()
    count, prompts = fewer_prompts(outcome, report.request.space.workload), report.request.space.workload.prompts
    is_told = any(flag.startswith("scored on") for flag in flags)  # by the race, with its verdict
    few = [f"scored on {count} of {len(prompts)} prompts"] if count is not None and not is_told else []
    owner = outcome.quality.reused_from if outcome.quality else None
    images = [f"images of trial {owner}"] if owner is not None else []
    return "; ".join([text, *images, *few, *map(one_line, flags)])


def _beyond(value: float, limit: float) -> str:
    """Format a difference with two decimals, or as many as show that it is beyond a limit."""
    places = next((places for places in range(2, 6) if round(value, places) != round(limit, places)), 6)
    return format_signed(value, places)


def _why_not(report: StudyReport, outcome: Outcome, point: FrontPoint | None) -> str:
    """Return the first reason that holds."""
    if outcome.quality is None or outcome.timing is None:
        return "not scored"
    chosen, before, tolerance = report.best.chosen, report.best.baseline, report.best.quality_tolerance
    shift = outcome.quality.difference
    usd = point.cost_usd_per_1000_images if point else outcome.cost_usd_per_1000_images or math.inf
    reasons = (
        (not meets_latency_target(outcome.timing.within_target), "misses the latency target"),
        (
            not front.is_as_good(outcome, tolerance),
            f"not certainly as good: down to {_beyond(shift.low, -tolerance)}, tolerated {format_exact(-tolerance)}",
        ),
        (point is not None and point.is_doubtful, "gain in doubt: pairs of fresh processes did not decide it"),
        (usd >= before.cost_usd_per_1000_images, "as good, but not cheaper than the baseline"),
        (usd >= chosen.cost_usd_per_1000_images, f"as good, but not cheaper than trial {chosen.trial}"),
    )
    return next((reason for holds, reason in reasons if holds), "as good and seemed cheaper; the gain is not confirmed")


def counts(rows: list[Trial]) -> dict[str, int]:
    """Return the number of trials of each kind that occurs, in the order of `KINDS`."""
    numbers = {kind: sum(row.kind == kind for row in rows) for kind in KINDS}
    return {kind: number for kind, number in numbers.items() if number}

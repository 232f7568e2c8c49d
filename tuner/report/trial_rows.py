"""The trials of a study as rows of a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tuner.records.outcome import Outcome
from tuner.report.study_report import StudyReport


def trial_rows(report: StudyReport) -> Iterator[dict[str, Any]]:
    """Yield a row for each trial: its status and reason, its figures, and the value of each knob."""
    for outcome in report.outcomes:
        yield {**_figures(outcome), **_standing(report, outcome.number), **_rest(outcome)}


def _figures(outcome: Outcome) -> dict[str, Any]:
    quality, timing = outcome.quality, outcome.timing
    return {
        "trial": outcome.number,
        "status": outcome.status,
        "purpose": outcome.purpose,
        "recipe": outcome.recipe,
        "latency_s": timing.latency_s.value if timing else None,
        "latency_low_s": timing.latency_s.low if timing else None,
        "latency_high_s": timing.latency_s.high if timing else None,
        "images_per_s": timing.images_per_s if timing else None,
        "cost_usd_per_1000_images": outcome.cost_usd_per_1000_images,
        "quality": quality.mean if quality else None,
        "quality_difference": quality.difference.value if quality else None,
        "scored_prompts": len(quality.scores) if quality else None,
    }


def _standing(report: StudyReport, trial: int) -> dict[str, Any]:
    """Return where a trial stands; one that was not measured has no speed-up."""
    standing = report.standings.get(trial)
    return {
        "speed_up": standing.speed_up.value if standing else None,
        "speed_up_low": standing.speed_up.low if standing else None,
        "speed_up_high": standing.speed_up.high if standing else None,
        "on_front": standing is not None and standing.on_front,
        "is_chosen": trial == report.best.chosen.trial,
        "is_confirmed": standing is not None and standing.is_confirmed,
    }


def _rest(outcome: Outcome) -> dict[str, Any]:
    return {
        "peak_memory_bytes": outcome.memory.peak_bytes if outcome.memory else None,
        "failure": outcome.failure.message if outcome.failure else None,
        **outcome.values,
    }

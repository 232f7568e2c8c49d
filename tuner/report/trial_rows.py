"""The trials of a study as rows of a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tuner.records.outcome import Outcome


def trial_rows(outcomes: Iterable[Outcome]) -> Iterator[dict[str, Any]]:
    """Yield a row for each trial: its status and reason, its figures, and the value of each knob."""
    for outcome in outcomes:
        quality, timing = outcome.quality, outcome.timing
        yield {
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
            "peak_memory_bytes": outcome.memory.peak_bytes if outcome.memory else None,
            "failure": outcome.failure.message if outcome.failure else None,
            **outcome.values,
        }

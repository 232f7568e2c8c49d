"""Which latency a candidate must beat to be worth judging."""

from __future__ import annotations

from tuner.result import front
from tuner.search.history import History


def latency_to_beat_s(history: History) -> float | None:
    """Return the seconds per image of the quickest trial that loses no quality, None before the baseline is judged.

    A slower candidate can be neither cheaper nor, beyond what rounding does to an image, better.
    """
    floor = history.quality_floor or 0.0
    lossless = [
        outcome
        for outcome in front.eligible(history.all_settled(), history.space.tolerance)
        if outcome.quality is not None and outcome.quality.difference.value >= -floor
    ]
    return min((front.seconds_per_image(outcome).high for outcome in lossless), default=None)

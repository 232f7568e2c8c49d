"""What a study measured, as rows for the models: the time of a step, the rest of a call, the first call, the loss."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.records.codec import Values
from tuner.records.outcome import Outcome
from tuner.result import front
from tuner.search.history import History
from tuner.timing.intervals import Z_95

MIN_S = 1e-6
"""Times are at least so long, to have a logarithm."""

FIXED_SHARE = 0.05
"""The share of a call that is no denoising, where nothing tells."""


@dataclass(frozen=True)
class Seconds:
    """The latency of a call per image: a step, and what takes the same whatever the steps."""

    step: float
    fixed: float


@dataclass(frozen=True)
class Loss:
    """How much worse the images of a candidate scored, and the standard error of that."""

    values: Values
    points: float
    error: float


def divided(outcome: Outcome) -> Seconds:
    """Divide the latency of a measured trial into its steps and the rest."""
    assert outcome.timing is not None
    steps, batch = int(outcome.values["steps"]), int(outcome.values["batch"])
    seconds = front.seconds_per_image(outcome).value
    parts = outcome.timing.components
    if parts is not None and parts.denoiser_s is not None and parts.total_s > 0:
        share = min(max((parts.total_s - parts.denoiser_s) / parts.total_s, 0.0), 0.9)
    else:
        share = FIXED_SHARE * batch / (steps + batch)
    return Seconds(step=max(seconds * (1 - share) / steps, MIN_S), fixed=max(seconds * share, MIN_S))


def losses(history: History) -> list[Loss]:
    """Return what the images of each image key lost, each once."""
    found: dict[str, Loss] = {}
    for outcome in history.outcomes.values():
        if outcome.status == "measured" and outcome.quality is not None and outcome.quality.reused_from is None:
            difference = outcome.quality.difference
            error = (difference.high - difference.low) / 2 / Z_95
            found.setdefault(outcome.image_key, Loss(outcome.values, -difference.value, error))
    return list(found.values())


def first_calls(history: History) -> list[tuple[Values, float]]:
    """Return what each build's first call took beyond a warm call, where it was built."""
    found: dict[str, tuple[Values, float]] = {}
    for outcome in history.outcomes.values():
        if outcome.build is not None:
            compile_s = outcome.build.compile_s
            seconds = outcome.build.first_call_s if compile_s is None else compile_s
            found.setdefault(outcome.build_key, (outcome.values, seconds + outcome.build.apply_s))
    return list(found.values())

"""What a study measured, as rows for the models: the time of a step, the rest of a call, the first call, the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tuner.records.outcome import Outcome
from tuner.result import front
from tuner.search.agent.features import STEPS, Array, Columns
from tuner.search.history import History
from tuner.search.unknown import Key, key
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


@dataclass(frozen=True, eq=False)
class Observed:
    """A recorded trial with what follows from it alone, which is worked out once."""

    outcome: Outcome
    row: Array

    @cached_property
    def key(self) -> Key:
        """The key of its candidate."""
        return key(self.outcome.values)

    @cached_property
    def code(self) -> Key:
        """What decides which code is compiled."""
        return self.key - {(STEPS, self.outcome.values[STEPS])}

    @cached_property
    def is_measured(self) -> bool:
        """Whether it has both a latency and a loss."""
        return bool(front.measured([self.outcome]))

    @cached_property
    def latency_s(self) -> float:
        """The measured latency per image."""
        return front.seconds_per_image(self.outcome).value

    @cached_property
    def divided(self) -> Seconds:
        """The measured latency, divided into its steps and the rest."""
        return divided(self.outcome)

    @cached_property
    def loss(self) -> float:
        """How much worse its images scored."""
        return -self.outcome.quality.difference.value if self.outcome.quality is not None else 0.0

    @cached_property
    def loss_error(self) -> float:
        """The standard error of the loss."""
        difference = self.outcome.quality.difference if self.outcome.quality is not None else None
        return 0.0 if difference is None else (difference.high - difference.low) / 2 / Z_95


class Observer:
    """Keeps what follows from each trial of a study that grows."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.made: dict[int, Observed] = {}

    def trials(self, history: History) -> list[Observed]:
        """Return the recorded trials of a study by number, and as on the baseline's device."""
        return [self.of(outcome) for outcome in sorted(history.all_comparable(), key=lambda outcome: outcome.number)]

    def of(self, outcome: Outcome) -> Observed:
        """Return a recorded trial with what follows from it."""
        made = self.made.get(outcome.number)
        if made is None or made.outcome != outcome:
            made = self.made[outcome.number] = Observed(outcome, self.columns.rows([outcome.values])[0])
        return made


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


def judged(trials: Sequence[Observed]) -> list[Observed]:
    """Return the trials whose own images were judged, one of each image key."""
    found: dict[str, Observed] = {}
    for trial in trials:
        quality = trial.outcome.quality
        if trial.outcome.status == "measured" and quality is not None and quality.reused_from is None:
            found.setdefault(trial.outcome.image_key, trial)
    return list(found.values())


def built(trials: Sequence[Observed]) -> list[tuple[Observed, float]]:
    """Return the first trial of each build, with what its first call took beyond a warm call."""
    found: dict[str, tuple[Observed, float]] = {}
    for trial in trials:
        build = trial.outcome.build
        if build is not None and trial.outcome.build_key not in found:
            seconds = build.first_call_s if build.compile_s is None else build.compile_s
            found[trial.outcome.build_key] = trial, seconds + build.apply_s
    return list(found.values())

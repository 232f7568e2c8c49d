"""Prefer fewer settings where the timing noise cannot tell two configurations apart."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

from tuner.records.codec import Estimate, Values
from tuner.records.outcome import Device, Outcome
from tuner.result import front
from tuner.search.bounds import refusal_reason
from tuner.search.expectation import expected_beside, is_beside
from tuner.search.gain import timing_noise
from tuner.search.history import BASELINE, History
from tuner.search.strategy import Proposal, SearchContext, Strategy
from tuner.timing.intervals import Z_95

MIN_MARGIN, MAX_MARGIN = 0.005, 0.03
"""Shares of the cost. Fresh processes of one configuration differ by up to half a percent on a quiet GPU. On a noisy
machine three percent may be noise, but are worth a setting."""

CALL_KNOBS = ("steps", "batch")
"""They trade something else than settings that nobody needs."""

NO_GAIN = Estimate(value=1.0, low=1.0, high=1.0)
"""What is assumed of a setting of which the advisor knows nothing."""

LAST = (math.inf, math.inf, math.inf)
"""More complex than any trial."""


def margin(history: History) -> float:
    """Return the share by which two costs may differ by noise."""
    noise = timing_noise(history)
    spread = Z_95 * math.sqrt(2) * noise.coefficient_of_variation if noise else 0.0
    return min(max(spread, MIN_MARGIN), MAX_MARGIN)


def simplest_first(history: History, trials: Sequence[Outcome]) -> list[Outcome]:
    """Order trials by cost, but those that cost as little as the cheapest, up to noise, by how simple they are."""
    by_cost = sorted(trials, key=front.cost)
    if not by_cost:
        return []
    most = front.cost(by_cost[0]) * (1 + margin(history))
    return sorted(by_cost, key=lambda trial: complexity(history, trial) if front.cost(trial) <= most else LAST)


def complexity(history: History, trial: Outcome) -> tuple[float, float, float]:
    """Return how many settings a trial has, then its memory in bytes, then the seconds of its first call."""
    memory_bytes = trial.memory.peak_bytes if trial.memory else 0
    return len(history.space.changed(trial.values)), memory_bytes, trial.build.first_call_s if trial.build else 0.0


class Simplify(Strategy):
    """Takes settings out of the best configuration in the last part of the search.

    First all at once of which no gain is expected, then one at a time. What is then as cheap is preferred, and
    simplified further. A setting that the advisor is sure of is not taken out. While one simpler configuration is
    measured, no other is proposed: what comes next depends on it.
    """

    def __init__(self, context: SearchContext) -> None:
        self.context = context

    def propose(self, history: History, device: Device) -> Proposal | None:
        best = self.context.best(history)
        if best.number == BASELINE or self.context.is_over(history) or not self.context.is_ending(history):
            return None
        for values in simpler(history, best):
            if history.find_running(values) is not None:
                return None
            if not history.was_tried(values) and refusal_reason(history, values) is None:
                return Proposal(values=values, purpose="search")
        return None


def simpler(history: History, trial: Outcome) -> Iterator[Values]:
    """Yield candidates with fewer settings than a trial: without all that are not expected to gain, then without one.

    The setting of the least expected gain goes first.
    """
    names = list(questionable(history, trial))
    idle = [name for name in names if is_expected_idle(history, trial, name)]
    for taken_out in ([idle] if len(idle) > 1 else []) + [[name] for name in names]:
        yield functools.reduce(history.space.without, taken_out, trial.values)


def is_expected_idle(history: History, trial: Outcome, name: str) -> bool:
    """Return whether the advisor expects that a setting of a trial gains nothing beyond the noise there."""
    expected = expected_gain(history, trial, name)
    return expected is not None and expected.value <= 1 + margin(history)


def questionable(history: History, trial: Outcome) -> Iterator[str]:
    """Yield the settings of a trial that may gain nothing, that of the least expected gain first."""
    space = history.space
    settings = {
        name: value
        for name, value in space.changed(trial.values).items()
        if name not in CALL_KNOBS and space.baseline[name] in space.knobs.get(name, ())  # else the user fixed it
    }
    expected = {name: expected_gain(history, trial, name) or NO_GAIN for name in settings}
    for name in sorted(expected, key=lambda name: expected[name].value):
        if expected[name].low <= 1 + margin(history):
            yield name


def expected_gain(history: History, trial: Outcome, name: str) -> Estimate | None:
    """Return what the advisor expects of a setting of a trial beside the others, None where it knows nothing."""
    found = history.advice.of(name, trial.values[name]) if history.advice else None
    measured = history.outcomes[trial.number]
    if found is None or not is_beside(history, found, measured):
        return None
    return expected_beside(history, found, measured, has_setting=True)

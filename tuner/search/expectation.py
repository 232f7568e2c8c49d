"""What is expected of a setting beside others: the advisor expects a ratio of the untouched pipeline's call."""

from __future__ import annotations

from tuner.records.advice import Expectation
from tuner.records.codec import Estimate, Value
from tuner.records.outcome import Outcome
from tuner.search.agent.features import acts_outside_steps
from tuner.search.agent.observed import divided
from tuner.search.history import History

MIN_PART = 0.02
"""A setting leaves at least this share of the part of a call that it acts on."""


def estimate_of(found: Expectation) -> Estimate:
    """Return an expected ratio with its interval."""
    return Estimate(value=found.ratio, low=found.low, high=found.high)


def share_of(outcome: Outcome, setting: tuple[str, Value]) -> float:
    """Return the share of a trial's call in which a setting acts: the denoising steps, or the rest."""
    parts = divided(outcome)
    steps_s = parts.step * int(outcome.values["steps"])
    return (parts.fixed if acts_outside_steps(setting) else steps_s) / (steps_s + parts.fixed)


def is_beside(history: History, found: Expectation, trial: Outcome) -> bool:
    """Return whether a trial has, of each knob that an expectation is beside, a value that is not the untouched one.

    Without a CUDA graph, what makes kernels shorter does not show in steps that wait for the host. Which value it is
    does not matter: a whole compile serves quantized products as one of blocks does.
    """
    return found.beside.keys() <= history.space.changed(trial.values).keys()


def ratio_beside(ratio: float, at_first: float, here: float, *, has_setting: bool) -> float:
    """Return what a ratio of the untouched call is beside other settings (Amdahl's law).

    What a setting does to its part of a call is assumed to be the same in each call, but the part is another share of
    it: `at_first` of the untouched one, `here` of one that has the setting or lacks it. A ratio that this part alone
    cannot reach is returned as it is.
    """
    part = 1 - (1 - 1 / ratio) / at_first
    if part < MIN_PART:
        return ratio
    return 1 - here + here / part if has_setting else 1 / (1 - here * (1 - part))


def expected_beside(history: History, found: Expectation, trial: Outcome, *, has_setting: bool) -> Estimate:
    """Return what is expected of a setting beside those of a measured trial, which has the setting itself or lacks it.

    Decoding is 2 % of a call of 28 steps, and 15 % where a cache skips most of them.
    """
    setting = (found.knob, found.value)
    at_first, here = share_of(history.baseline, setting), share_of(trial, setting)
    value, low, high = (
        ratio_beside(ratio, at_first, here, has_setting=has_setting) for ratio in (found.ratio, found.low, found.high)
    )
    return Estimate(value=value, low=min(low, value), high=max(high, value))

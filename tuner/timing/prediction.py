"""What a call costs at a step count that was not measured: a fixed part, and a part for each step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tuner.records.codec import Estimate
from tuner.records.outcome import PredictionCheck, StepCost, Timing
from tuner.timing.intervals import Z_95

MAX_ERROR = 0.01
"""The share by which a prediction may miss what the calls that drew the images took, and still stand."""

MIN_RELATIVE_ERROR = 1e-4
"""No timing is taken to be known better than this share of it."""


def step_counts_to_measure(steps: Sequence[int]) -> set[int]:
    """Which step counts to measure: the first, which was asked for, and the least and the greatest, so that all others
    lie between measured ones."""
    return {steps[0], min(steps), max(steps)}


def fit(measured: Mapping[int, Estimate]) -> StepCost:
    """The cost of a call from the latencies measured at two or more step counts, in one process and at one batch.

    Least squares, weighted by the intervals. Where three or more do not lie on a line within them, the intervals are
    widened by the Birge ratio, as the Particle Data Group does. What differs between processes is not in them.
    """
    if len(measured) < 2:
        raise ValueError("the cost of a step needs two step counts")
    weights = {
        steps: max(_error(latency), MIN_RELATIVE_ERROR * latency.value) ** -2 for steps, latency in measured.items()
    }
    total = sum(weights.values())
    centre = sum(weight * steps for steps, weight in weights.items()) / total
    spread = sum(weight * (steps - centre) ** 2 for steps, weight in weights.items())
    mean = sum(weight * measured[steps].value for steps, weight in weights.items()) / total
    slope = sum(weight * (steps - centre) * measured[steps].value for steps, weight in weights.items()) / spread
    fixed = mean - slope * centre
    misfit = sum(weight * (measured[steps].value - fixed - slope * steps) ** 2 for steps, weight in weights.items())
    scale = max(1.0, misfit / max(len(measured) - 2, 1))
    return StepCost(
        fixed_s=_estimate(fixed, scale * (1 / total + centre**2 / spread)),
        per_step_s=_estimate(slope, scale / spread),
        covariance_s2=-scale * centre / spread,
        measured_at=tuple(sorted(measured)),
    )


def predict(cost: StepCost, steps: int) -> Estimate:
    """The latency of a call of so many steps in the process that was measured, with its 95 % interval."""
    variance = _error(cost.fixed_s) ** 2 + (steps * _error(cost.per_step_s)) ** 2 + 2 * steps * cost.covariance_s2
    return _estimate(cost.fixed_s.value + steps * cost.per_step_s.value, max(variance, 0.0))


def predicted_timing(cost: StepCost, steps: int, batch: int, target_s: float | None = None) -> Timing:
    """A predicted latency in the place of a measured one. Its calls all meet a latency target, or none does."""
    latency = predict(cost, steps)
    return Timing(
        latency_s=latency,
        samples=0,
        images_per_s=batch / latency.value,
        stopped="predicted",
        predicted_from=cost.measured_at,
        within_target=None if target_s is None else float(latency.value <= target_s),
    )


def agrees(predicted: Estimate, measured: Estimate, spread: float = 0.0) -> bool:
    """Whether a prediction held: the two differ by no more than their intervals explain, together with the `spread`
    between processes (coefficient of variation) when they come from two."""
    error = math.hypot(_error(predicted), _error(measured), math.sqrt(2) * spread * measured.value)
    return abs(predicted.value - measured.value) <= Z_95 * error


def is_contradicted(predicted: Estimate, drawn: Estimate) -> bool:
    """Whether the calls of the same process that drew the images took clearly something else than was predicted."""
    return not agrees(predicted, drawn) and abs(drawn.value / predicted.value - 1) > MAX_ERROR


def check(trial: int, predicted: Estimate, measured: Estimate, spread: float) -> PredictionCheck:
    """What became of a prediction; `spread` as for `agrees`."""
    return PredictionCheck(
        trial=trial,
        predicted_s=predicted,
        measured_s=measured,
        error=predicted.value / measured.value - 1,
        held=agrees(predicted, measured, spread),
    )


def _error(estimate: Estimate) -> float:
    """The standard error that an interval stands for."""
    return (estimate.high - estimate.low) / 2 / Z_95


def _estimate(value: float, variance: float) -> Estimate:
    half = Z_95 * math.sqrt(variance)
    return Estimate(value=value, low=value - half, high=value + half)

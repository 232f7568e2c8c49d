"""Prediction of the latency at step counts that were not measured, from a fixed cost and a cost per step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from tuner.records.codec import Estimate
from tuner.records.outcome import Components, PredictionCheck, StepCost, Timing
from tuner.timing.intervals import Z_95

MAX_ERROR = 0.01
"""The relative error, against the calls that generated the images, up to which a prediction still stands."""

COMPOSED_STEPS = 12
"""The steps of the calls that the latency of slow calls is composed from, at most."""

SETTLED_AFTER_S = 3.0
"""Seconds of steps in which a GPU reaches the clock of a long run. Composed from 12 steps of FLUX.1-dev, 2.1 s on an
H200, latencies were 0.2 to 1.3 % off; 12 steps of Wan 2.1 1.3B take 15 s."""

WARM_UP_STEPS = 4
"""The steps of the calls that warm up a pipeline whose calls have more."""

MIN_RELATIVE_ERROR = 1e-4
"""The smallest relative standard error that a fitted timing is given."""


def composed_steps(step_s: float) -> int:
    """Return the steps of the calls that the latency of slow calls is composed from: fewer where a step takes long.

    `step_s` is a step's share of a call with WARM_UP_STEPS steps, so with a part of what is fixed.
    """
    enough = math.ceil(SETTLED_AFTER_S / max(step_s, 1e-9))
    return min(max(enough, WARM_UP_STEPS), COMPOSED_STEPS)


def step_counts_to_measure(steps: Sequence[int]) -> set[int]:
    """Return the step counts to measure: the first, which the user requested, the smallest and the largest.

    All others lie between measured ones.
    """
    return {steps[0], min(steps), max(steps)}


def fit(measured: Mapping[int, Estimate]) -> StepCost:
    """Fit a line through the latencies measured at two or more step counts, in one process and at one batch size.

    Least squares, weighted by the intervals. If three or more points do not lie on a line within their intervals, the
    intervals are widened by the Birge ratio, as the Particle Data Group does. They do not cover differences between
    processes. Raises ValueError with fewer than two step counts.
    """
    if len(measured) < 2:
        raise ValueError("the cost of a step needs two step counts")
    import numpy as np

    latencies = list(measured.values())
    steps, seconds = np.array(list(measured), float), np.array([latency.value for latency in latencies])
    errors = np.array([max(_error(latency), MIN_RELATIVE_ERROR * latency.value) for latency in latencies])
    line, covariance = np.polyfit(steps, seconds, 1, w=1 / errors, cov="unscaled")
    misfit = float((((seconds - np.polyval(line, steps)) / errors) ** 2).sum())
    covariance = covariance * max(1.0, misfit / max(len(measured) - 2, 1))
    return StepCost(
        fixed_s=_estimate(float(line[1]), float(covariance[1, 1])),
        per_step_s=_estimate(float(line[0]), float(covariance[0, 0])),
        covariance_s2=float(covariance[0, 1]),
        measured_at=tuple(sorted(measured)),
    )


def predict(cost: StepCost, steps: int) -> Estimate:
    """Predict the latency of a call of `steps` steps in the measured process, with its 95 % interval."""
    variance = _error(cost.fixed_s) ** 2 + (steps * _error(cost.per_step_s)) ** 2 + 2 * steps * cost.covariance_s2
    return _estimate(cost.fixed_s.value + steps * cost.per_step_s.value, max(variance, 0.0))


def predicted_timing(cost: StepCost, steps: int, batch: int, target_s: float | None = None) -> Timing:
    """Return a Timing with a predicted latency. Either all of its calls meet the latency target or none do."""
    latency = predict(cost, steps)
    return Timing(
        latency_s=latency,
        samples=0,
        images_per_s=batch / latency.value,
        stopped="predicted",
        predicted_from=cost.measured_at,
        within_target=None if target_s is None else float(latency.value <= target_s),
    )


def can_compose(components: Components | None, steps: int) -> bool:
    """Return whether each step makes the same number of calls of the denoiser.

    A cascade calls one of its denoisers as often whatever the steps.
    """
    calls = components.denoiser_calls if components else None
    return calls is not None and calls % steps == 0


def composed_timing(short: Timing, short_steps: int, steps: int, batch: int, target_s: float | None = None) -> Timing:
    """Return the Timing of a slow call from that of one with fewer steps, whose parts were timed."""
    assert short.components is not None
    components = with_steps(short.components, steps, short_steps)
    ratio = components.total_s / short.components.total_s
    latency = scaled(short.latency_s, ratio)
    gpu = short.gpu
    if gpu is not None and gpu.energy_j is not None:
        gpu = msgspec.structs.replace(gpu, energy_j=scaled(gpu.energy_j, ratio))
    return Timing(
        latency_s=latency,
        samples=0,
        images_per_s=batch / latency.value,
        stopped="predicted",
        predicted_from=(short_steps,),
        within_target=None if target_s is None else float(latency.value <= target_s),
        gpu=gpu,
        components=components,
        warm_up=short.warm_up,
    )


def scaled(estimate: Estimate, ratio: float) -> Estimate:
    """Return an estimate times a positive number."""
    return Estimate(value=ratio * estimate.value, low=ratio * estimate.low, high=ratio * estimate.high)


def with_steps(components: Components, steps: int, measured_steps: int) -> Components:
    """Return the components of a call with other steps than were measured.

    The time of the denoiser changes, and that between its calls, as of the scheduler.
    """
    assert components.denoiser_s is not None and components.denoiser_calls is not None
    more_s = components.denoiser_s * (steps / measured_steps - 1)
    between_steps_s = components.between_steps_s or 0.0
    more_between_steps_s = between_steps_s * (steps - measured_steps) / max(measured_steps - 1, 1)
    return msgspec.structs.replace(
        components,
        total_s=components.total_s + more_s + more_between_steps_s,
        denoiser_s=components.denoiser_s + more_s,
        rest_s=components.rest_s + more_between_steps_s,
        denoiser_calls=components.denoiser_calls * steps // measured_steps,
        between_steps_s=None if components.between_steps_s is None else between_steps_s + more_between_steps_s,
    )


def agrees(predicted: Estimate, measured: Estimate, spread: float = 0.0) -> bool:
    """Return whether a predicted and a measured latency differ by no more than their intervals explain.

    If the two come from different processes, `spread` is the coefficient of variation between processes.
    """
    error = math.hypot(_error(predicted), _error(measured), math.sqrt(2) * spread * measured.value)
    return abs(predicted.value - measured.value) <= Z_95 * error


def is_contradicted(predicted: Estimate, measured: Estimate) -> bool:
    """Return whether the calls that generated the images, in the same process, clearly took another time."""
    return not agrees(predicted, measured) and abs(measured.value / predicted.value - 1) > MAX_ERROR


def check(trial: int, predicted: Estimate, measured: Estimate, spread: float) -> PredictionCheck:
    """Compare a prediction with what fresh processes measured; see `agrees` for `spread`."""
    return PredictionCheck(
        trial=trial,
        predicted_s=predicted,
        measured_s=measured,
        error=predicted.value / measured.value - 1,
        held=agrees(predicted, measured, spread),
    )


def _error(estimate: Estimate) -> float:
    """Return the standard error behind a 95 % interval."""
    return (estimate.high - estimate.low) / 2 / Z_95


def _estimate(value: float, variance: float) -> Estimate:
    half = Z_95 * math.sqrt(variance)
    return Estimate(value=value, low=value - half, high=value + half)

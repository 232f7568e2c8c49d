"""The Pareto front of cost against quality, and the order in which to choose from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import msgspec

from tuner.records.codec import Estimate
from tuner.records.outcome import Outcome, Timing
from tuner.timing.intervals import Z_95
from tuner.timing.target import meets_latency_target


def measured(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes that have both a cost and a quality."""
    return [outcome for outcome in outcomes if outcome.status == "measured" and outcome.quality and outcome.timing]


def cost(outcome: Outcome) -> float:
    """Return the cost of a measured outcome in US dollars per 1000 images."""
    assert outcome.cost_usd_per_1000_images is not None
    return outcome.cost_usd_per_1000_images


def mean_quality(outcome: Outcome) -> float:
    """Return the mean score of an outcome whose images were judged."""
    assert outcome.quality is not None
    return outcome.quality.mean


def meets_target(outcome: Outcome) -> bool:
    """Return whether a measured outcome meets the latency target, if there is one."""
    return outcome.timing is not None and meets_latency_target(outcome.timing.within_target)


def pareto_front(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the non-dominated outcomes among those that meet the latency target, cheapest first.

    If two are equal in both cost and quality, the earlier one stays.
    """
    points: list[Outcome] = []
    best = float("-inf")
    candidates = filter(meets_target, measured(outcomes))
    for outcome in sorted(candidates, key=lambda o: (cost(o), -mean_quality(o), o.number)):
        if mean_quality(outcome) > best:
            points.append(outcome)
            best = mean_quality(outcome)
    return points


def is_as_good(outcome: Outcome, tolerance: float) -> bool:
    """Return whether, with 95 % confidence, the mean score is within `tolerance` below the baseline's or above it."""
    return outcome.quality is not None and outcome.quality.difference.low >= -tolerance


def eligible(outcomes: Sequence[Outcome], tolerance: float) -> list[Outcome]:
    """Return the outcomes that are as good as the baseline and meet the latency target, cheapest first."""
    return sorted((o for o in measured(outcomes) if is_as_good(o, tolerance) and meets_target(o)), key=cost)


def speed_up(baseline: Sequence[Outcome], other: Sequence[Outcome]) -> Estimate:
    """Return the throughput of `other` over the baseline's, each measured in several fresh processes.

    The interval is the widest that the 95 % intervals of the processes allow, so it covers their spread too.
    """
    before = [seconds_per_image(outcome) for outcome in baseline]
    after = [seconds_per_image(outcome) for outcome in other]
    shortest_s = max(min(e.low for e in after), 1e-9)  # the interval of a prediction may reach 0
    return Estimate(
        value=median([e.value for e in before]) / median([e.value for e in after]),
        low=min(e.low for e in before) / max(e.high for e in after),
        high=max(e.high for e in before) / shortest_s,
    )


def widen(ratio: Estimate, spread: float) -> Estimate:
    """Widen a ratio's interval by what two processes differ by.

    `spread` is their coefficient of variation.
    """
    factor = math.exp(Z_95 * math.sqrt(2) * spread)
    return Estimate(value=ratio.value, low=ratio.low / factor, high=ratio.high * factor)


def merge_timings(runs: Sequence[Timing]) -> Timing:
    """Merge the timings of several processes into one.

    The latency is the median of their medians with the widest of their intervals. The other fields come from the most
    typical process.
    """
    latency_s = Estimate(
        value=median([run.latency_s.value for run in runs]),
        low=min(run.latency_s.low for run in runs),
        high=max(run.latency_s.high for run in runs),
    )
    typical = min(runs, key=lambda run: abs(run.latency_s.value - latency_s.value))
    images, samples = runs[0].images_per_s * runs[0].latency_s.value, sum(run.samples for run in runs)
    within = [run.within_target * run.samples for run in runs if run.within_target is not None]
    return msgspec.structs.replace(
        typical,
        latency_s=latency_s,
        samples=samples,
        images_per_s=images / latency_s.value,
        within_target=sum(within) / samples if within else None,
    )


def scaled(timing: Timing, scale: float) -> Timing:
    """Return a timing whose calls take `scale` times as long."""

    def longer(estimate: Estimate) -> Estimate:
        return Estimate(value=estimate.value * scale, low=estimate.low * scale, high=estimate.high * scale)

    return msgspec.structs.replace(
        timing,
        latency_s=longer(timing.latency_s),
        images_per_s=timing.images_per_s / scale,
        device_s=None if timing.device_s is None else longer(timing.device_s),
        latency_p95_s=None if timing.latency_p95_s is None else timing.latency_p95_s * scale,
    )


def seconds_per_image(outcome: Outcome) -> Estimate:
    """Return the seconds of a device that an image of a measured outcome takes: the latency, on one device."""
    assert outcome.timing is not None
    batch = outcome.values["batch"]
    assert isinstance(batch, int)
    return per_image(outcome.timing.latency_s, batch, outcome.timing.devices)


def per_image(latency_s: Estimate, batch: int, devices: int = 1) -> Estimate:
    """Return the seconds that a call takes per image of its batch, summed over the devices that compute it."""
    value, low, high = (each * devices / batch for each in (latency_s.value, latency_s.low, latency_s.high))
    return Estimate(value=value, low=low, high=high)

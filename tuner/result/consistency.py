"""Find figures of a best_config.json that contradict one another: the file may come from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime

from tuner.numbers import format_number
from tuner.records.consistency import Rule, differ, first_broken
from tuner.records.text import format_value
from tuner.result.economics import economics, goodput, usd_per_1000_images
from tuner.result.records import BestConfig, MeasuredPoint

YEARS = range(2020, 2100)
"""No study was made before, and no clock of a machine that works is beyond."""

UNLIKELY_RATIO = 10.0
"""A gain is from pairs of processes, the latencies from all processes. No noise puts them so far apart."""


def config_contradiction(best: BestConfig) -> str | None:
    """Return which field of a result does not go with the others, and why, or None."""
    return first_broken(RULES, best)


def _created(best: BestConfig) -> Iterator[str]:
    created = datetime.fromisoformat(best.created_at)
    if created.year not in YEARS:
        yield f"created_at: {best.created_at}, a year in which no study was made"


def points_of(best: BestConfig) -> Iterator[tuple[str, MeasuredPoint]]:
    """Yield every point of a result with the name of its field."""
    yield from (("baseline", best.baseline), ("chosen", best.chosen))
    yield from ((f"front[{index}]", point) for index, point in enumerate(best.front))


def _points(best: BestConfig) -> Iterator[str]:
    for name, point in points_of(best):
        for rule in (_latency, _cost, _score, _economics):
            yield from (f"{name}.{problem}" for problem in rule(point, best))


def _latency(point: MeasuredPoint, _: BestConfig) -> Iterator[str]:
    latency_s = point.latency_s.value
    if differ(point.images_per_s * latency_s, point.batch):
        yield f"images_per_s: {point.images_per_s}, although a call of {point.batch} images takes {latency_s} s"
    is_predicted = point.predicted_from is not None
    for name in ("latency_samples", "processes"):
        count = getattr(point, name)
        if count is not None and (count == 0) != is_predicted:
            yield f"{name}: {count}, although the latency was {'' if is_predicted else 'not '}predicted"
    if point.confirmed and point.doubtful:
        yield "doubtful: true, although confirmed is true"
    if point.peak_reserved_bytes is not None and point.peak_reserved_bytes < point.peak_memory_bytes:
        yield f"peak_reserved_bytes: {point.peak_reserved_bytes}, less than the peak, {point.peak_memory_bytes}"


def _cost(point: MeasuredPoint, best: BestConfig) -> Iterator[str]:
    usd_per_hour = best.price.usd_per_hour
    cost = usd_per_1000_images(usd_per_hour * point.devices, goodput(point.images_per_s, point.within_latency_target))
    if differ(point.cost_usd_per_1000_images, cost):
        yield (
            f"cost_usd_per_1000_images: {point.cost_usd_per_1000_images}, although at US$ {usd_per_hour} per hour and "
            f"{point.images_per_s} images/s it is {cost}"
        )


def _score(point: MeasuredPoint, best: BestConfig) -> Iterator[str]:
    difference, scale = point.quality - best.baseline.quality, abs(best.baseline.quality)
    if differ(point.quality_difference.value, difference, scale):
        yield f"quality_difference: {point.quality_difference.value}, although the qualities differ by {difference}"


def _economics(point: MeasuredPoint, best: BestConfig) -> Iterator[str]:
    if point.economics is None:
        return
    expected = economics(best.price.usd_per_hour, point.measurement(), best.baseline.measurement())
    for name in point.economics.__struct_fields__:
        known, value = getattr(point.economics, name), getattr(expected, name)
        if known != value and (known is None or value is None or differ(known, value)):
            yield f"economics.{name}: {known}, although by the other figures it is {value}"


def _front(best: BestConfig) -> Iterator[str]:
    known = {"baseline": best.baseline, "chosen": best.chosen}
    seen: dict[int, int] = {}
    for index, point in enumerate(best.front):
        if point.trial in seen:
            yield f"front[{index}].trial: {point.trial}, as front[{seen[point.trial]}] is"
        seen[point.trial] = index
        for name, other in known.items():
            if point.trial == other.trial and (unequal := _unequal(point, other)):
                yield f"front[{index}].{unequal}: not what {name} says of trial {point.trial}"
    if best.chosen.trial == best.baseline.trial and (unequal := _unequal(best.chosen, best.baseline)):
        yield f"chosen.{unequal}: not what baseline says of the same trial"


def _unequal(one: MeasuredPoint, other: MeasuredPoint) -> str | None:
    """Return the first figure of a trial that two points differ in; its settings may have been edited by hand."""
    figures = [name for name in one.__struct_fields__ if name not in ("values", "changed")]
    return next((name for name in figures if getattr(one, name) != getattr(other, name)), None)


def _choice(best: BestConfig) -> Iterator[str]:
    """Check the choice, which a point that is not as good for certain may have driven off the front."""
    chosen = best.chosen
    listed = {best.baseline.trial, *(point.trial for point in best.front)}
    is_beaten = any(
        point.cost_usd_per_1000_images <= chosen.cost_usd_per_1000_images and point.quality >= chosen.quality
        for point in best.front
    )
    if chosen.trial not in listed and not is_beaten:
        yield f"chosen.trial: {chosen.trial}, a trial that is not on the front although no point there beats it"
    if chosen.trial == best.baseline.trial:
        return
    if chosen.doubtful or not chosen.confirmed:
        yield f"chosen.confirmed: {format_value(chosen.confirmed)}, although it was chosen"


def _gain(best: BestConfig) -> Iterator[str]:
    gain, is_baseline = best.speed_up, best.chosen.trial == best.baseline.trial
    chosen, baseline = (point.images_per_s / point.devices for point in (best.chosen, best.baseline))
    ratio = 1.0 if is_baseline else chosen / baseline
    if gain.low <= 0:
        yield f"speed_up.low: {gain.low}, which no ratio of throughputs is"
    elif abs(math.log(gain.value / ratio)) > (1e-4 if is_baseline else math.log(UNLIKELY_RATIO)):
        yield f"speed_up: {gain.value}, although the throughputs differ by a factor of {format_number(ratio, 6)}"
    if best.speed_up_confirmed != best.chosen.confirmed:
        yield f"speed_up_confirmed: {format_value(best.speed_up_confirmed)}, although chosen.confirmed is not"
    if best.speed_up_confirmed and not is_baseline and gain.low <= 1:
        yield f"speed_up_confirmed: true, although the gain may be as low as {gain.low}"


def _counts(best: BestConfig) -> Iterator[str]:
    points = {point.trial for _, point in points_of(best)}
    if best.trials.measured < len(points):
        yield f"trials.measured: {best.trials.measured}, although {len(points)} are listed"
    noise = best.timing_noise
    if noise is not None and noise.coefficient_of_variation > math.sqrt(noise.processes):
        yield f"timing_noise.coefficient_of_variation: more than {noise.processes} processes can have"


def _predictions(best: BestConfig) -> Iterator[str]:
    for index, check in enumerate(best.predictions):
        error = check.predicted_s.value / check.measured_s.value - 1
        if differ(check.error, error, 1.0):
            yield f"predictions[{index}].error: {check.error}, although by the two latencies it is {error}"


RULES: tuple[Rule[BestConfig], ...] = (
    _created, _points, _front, _choice, _gain, _counts, _predictions,
)  # fmt: skip

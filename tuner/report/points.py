"""Points of the front, as every renderer shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tuner.records.codec import Record, Value
from tuner.records.outcome import Outcome
from tuner.report.console import Glyphs
from tuner.report.formatting import label
from tuner.timing.target import meets_latency_target


class FrontPoint(Record):
    """One row of the front. The interval is the 95 % one of the paired difference, laid around `quality`.

    A predicted latency was not measured itself; only the baseline may miss the latency target and stand there.
    """

    number: int
    label: str
    latency_s: float
    images_per_s: float
    cost_usd_per_1000_images: float
    quality: float
    quality_low: float
    quality_high: float
    difference: float
    speed_up: float
    is_baseline: bool = False
    is_chosen: bool = False
    is_predicted: bool = False
    misses_target: bool = False


def front_point(
    outcome: Outcome,
    baseline: Outcome,
    changed: Mapping[str, Value],
    *,
    is_chosen: bool = False,
) -> FrontPoint:
    """The row of a measured and scored trial, named by what it `changed`; raises ValueError for another."""
    timing, quality, cost = outcome.timing, outcome.quality, outcome.cost_usd_per_1000_images
    if timing is None or quality is None or cost is None or baseline.timing is None:
        raise ValueError(f"trial {outcome.number} or its baseline is not measured")
    difference = quality.difference
    return FrontPoint(
        number=outcome.number,
        label=label(changed),
        latency_s=timing.latency_s.value,
        images_per_s=timing.images_per_s,
        cost_usd_per_1000_images=cost,
        quality=quality.mean,
        quality_low=quality.mean + difference.low - difference.value,
        quality_high=quality.mean + difference.high - difference.value,
        difference=difference.value,
        speed_up=timing.images_per_s / baseline.timing.images_per_s,
        is_baseline=outcome.number == baseline.number,
        is_chosen=is_chosen,
        is_predicted=timing.predicted_from is not None,
        misses_target=not meets_latency_target(timing.within_target),
    )


def in_order(points: Iterable[FrontPoint]) -> list[FrontPoint]:
    """The baseline, then the others from the cheapest on."""
    return sorted(points, key=lambda point: (not point.is_baseline, point.cost_usd_per_1000_images, point.number))


def is_marked(point: FrontPoint) -> bool:
    return point.is_chosen or point.is_baseline


def mark(point: FrontPoint, glyphs: Glyphs) -> str:
    """Return the mark of a point; the chosen one's where the baseline itself is chosen."""
    if point.is_chosen:
        return glyphs.chosen
    return glyphs.baseline if point.is_baseline else glyphs.other

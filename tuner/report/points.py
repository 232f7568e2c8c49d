"""Points of the front, as every renderer shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tuner.records.codec import Record, Value
from tuner.records.outcome import Outcome
from tuner.report.console import Glyphs
from tuner.report.formatting import label
from tuner.search.history import History
from tuner.timing.target import meets_latency_target


class FrontPoint(Record):
    """One row of the front.

    `quality_low` and `quality_high` are the 95 % interval of the paired difference, moved to `quality`. A predicted
    latency was not measured itself. Only the baseline may miss the latency target and still be a point.
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
    """Make the row of a trial, labelled with the values it `changed`.

    Raises ValueError if the trial was not measured and scored.
    """
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


def front_points(history: History, chosen: int | None) -> list[FrontPoint]:
    """Return the baseline and the front as points to show."""
    baseline = history.outcomes.get(0)
    if baseline is None or baseline.quality is None:
        return []
    baseline = history.settled(baseline)
    shown = {outcome.number: outcome for outcome in history.front()}
    shown[0] = baseline
    if chosen is not None:
        shown[chosen] = history.settled(history.outcomes[chosen])
    return [
        front_point(o, baseline, history.space.changed(o.values), is_chosen=o.number == chosen) for o in shown.values()
    ]


def in_order(points: Iterable[FrontPoint]) -> list[FrontPoint]:
    """Return the baseline, then the others from the cheapest on."""
    return sorted(points, key=lambda point: (not point.is_baseline, point.cost_usd_per_1000_images, point.number))


def is_marked(point: FrontPoint) -> bool:
    """Return whether the point has a mark of its own in tables."""
    return point.is_chosen or point.is_baseline


def mark(point: FrontPoint, glyphs: Glyphs) -> str:
    """Return the mark of a point; that of the chosen one where the baseline is chosen."""
    if point.is_chosen:
        return glyphs.chosen
    return glyphs.baseline if point.is_baseline else glyphs.other

"""The points of results, their costs at a price, and the front over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from tuner.compare.records import ComparedPoint, Instance, Result, Source
from tuner.records.codec import Estimate
from tuner.report.study_table import short_model
from tuner.result.economics import goodput, usd_per_1000_images
from tuner.result.prices import Price, is_nominal, price_for, quotes_for
from tuner.result.records import BestConfig, MeasuredPoint

SHORTEST_S = 1e-9
"""The interval of a predicted latency may reach 0."""


def price_of(best: BestConfig, usd_per_hour: float | None, provider: str | None) -> Price:
    """Return the requested price, else the list price of the machine, else the study's own."""
    listed = price_for(best.environment.device_name, usd_per_hour, provider)
    return best.price if is_nominal(listed) else listed


def make_sources(results: Sequence[Result], prices: Sequence[Price]) -> list[Source]:
    """Describe results, and number the fronts that they belong to."""
    keys = [_front_key(result.best, price) for result, price in zip(results, prices, strict=True)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return [_source(result, price, numbers[key]) for result, price, key in zip(results, prices, keys, strict=True)]


def _front_key(best: BestConfig, price: Price) -> tuple[object, ...]:
    """Return what points must have in common to be on one front: the size of their images, and a price that is known.

    Without a size a pipeline draws its own. A nominal price compares the points of one machine only.
    """
    work, model = best.workload, best.model
    size = (work.height, work.width, work.num_frames)
    own_size = None if work.height and work.width else (model.pipeline_class, short_model(model.source))
    return *size, own_size, best.environment.device_name if is_nominal(price) else None


def _source(result: Result, price: Price, front: int) -> Source:
    best = result.best
    return Source(
        file=result.file,
        model=short_model(best.model.source),
        pipeline_class=best.model.pipeline_class,
        revision=best.model.revision,
        device_name=best.environment.device_name,
        created_at=best.created_at,
        price=price,
        recorded_price=best.price,
        front=front,
        trials=best.trials,
        state=result.state,
        search_s=result.search_s,
    )


# ---- points ---------------------------------------------------------------------------------------------------------


def make_points(index: int, best: BestConfig, price: Price) -> Iterator[ComparedPoint]:
    """Yield the points of a result: the baseline, the front and the chosen one."""
    points = {point.trial: point for point in (best.baseline, *best.front, best.chosen)}
    for point in points.values():
        yield _point(index, best, point, price)


def _point(index: int, best: BestConfig, point: MeasuredPoint, price: Price) -> ComparedPoint:
    steps = int(point.values["steps"])
    return ComparedPoint(
        source=index,
        trial=point.trial,
        is_baseline=point.trial == best.baseline.trial,
        is_chosen=point.trial == best.chosen.trial,
        changed=point.changed,
        steps=steps,
        batch=point.batch,
        latency_s=point.latency_s,
        images_per_s=rate(point.batch, point.latency_s),
        iterations_per_s=rate(steps, point.latency_s),
        usd_per_million_images=usd_per_million(point, price.usd_per_hour),
        peak_memory_bytes=point.peak_memory_bytes,
        quality_metric=best.quality_metric,
        quality_difference=point.quality_difference,
        as_good=point.trial == best.baseline.trial or point.quality_difference.low >= -best.quality_tolerance,
        confirmed=_is_confirmed(best, point),
        is_predicted=point.predicted_from is not None,
    )


def _is_confirmed(best: BestConfig, point: MeasuredPoint) -> bool:
    """Return whether a study would choose a point: a gain that was not measured in pairs may be none."""
    return point.trial in (best.baseline.trial, best.chosen.trial) or (point.confirmed and not point.doubtful)


def rate(count: int, latency_s: Estimate) -> Estimate:
    """Return how many a second, if a call makes `count` of them."""
    return Estimate(
        value=count / max(latency_s.value, SHORTEST_S),
        low=count / max(latency_s.high, SHORTEST_S),
        high=count / max(latency_s.low, SHORTEST_S),
    )


def usd_per_million(point: MeasuredPoint, usd_per_hour: float) -> Estimate:
    """Return the US dollars for a million images at a price, with the interval of the latency."""
    images = rate(point.batch, point.latency_s)
    low, value, high = (
        1000.0 * usd_per_1000_images(usd_per_hour * point.devices, goodput(each, point.within_latency_target))
        for each in (images.high, images.value, images.low)
    )
    return Estimate(value=value, low=low, high=high)


# ---- the front ------------------------------------------------------------------------------------------------------


def with_front(points: Sequence[ComparedPoint], sources: Sequence[Source]) -> list[ComparedPoint]:
    """Mark the front over all sources that can be compared, and order the points by front and cost."""
    marked: list[ComparedPoint] = []
    for front in sorted({source.front for source in sources}):
        members = [point for point in points if sources[point.source].front == front]
        marked += _marked(sorted(members, key=_order))
    return marked


def _order(point: ComparedPoint) -> tuple[float, int, int]:
    return point.usd_per_million_images.value, point.source, point.trial


def _marked(points: Sequence[ComparedPoint]) -> Iterator[ComparedPoint]:
    """Yield points, the cheapest first, with their marks."""
    good = [point for point in points if point.as_good and point.confirmed]
    on_front = {id(point) for point in _front(good)}
    bound = good[0].usd_per_million_images.high if good else 0.0
    for point in points:
        yield msgspec.structs.replace(
            point,
            on_front=id(point) in on_front,
            is_cheapest=bool(good) and point is good[0],
            may_be_cheapest=point in good and point.usd_per_million_images.low <= bound,
        )


def _front(points: Iterable[ComparedPoint]) -> Iterator[ComparedPoint]:
    """Yield the points, given with the cheapest first, that no cheaper one is faster than."""
    fastest_s = float("inf")
    for point in points:
        if point.latency_s.value < fastest_s:
            fastest_s = point.latency_s.value
            yield point


# ---- offers ---------------------------------------------------------------------------------------------------------


def instances(index: int, best: BestConfig) -> Iterator[Instance]:
    """Yield what the chosen configuration costs at the study's own price, if another, and at each list price."""
    own = best.price
    if not is_nominal(own) and own != price_for(best.environment.device_name, None):
        yield Instance(
            source=index, provider="the study's price", offer=own.source, usd_per_hour=own.usd_per_hour,
            usd_per_million_images=usd_per_million(best.chosen, own.usd_per_hour),
        )  # fmt: skip
    for quote in quotes_for(best.environment.device_name):
        yield Instance(
            source=index, provider=quote.provider, offer=quote.offer, usd_per_hour=quote.usd_per_hour,
            usd_per_million_images=usd_per_million(best.chosen, quote.usd_per_hour), date=quote.date, page=quote.source,
        )  # fmt: skip

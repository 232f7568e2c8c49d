"""The study's own metric among all metrics of the finalists: one interval, that of the decision."""

from __future__ import annotations

import msgspec

from tuner.quality.statistics import verdict
from tuner.records.codec import Estimate
from tuner.records.quality import MetricResult
from tuner.result.records import BestConfig, MeasuredPoint


def as_decided(best: BestConfig) -> BestConfig:
    """Return a result whose panels have the difference of the study's metric as the study decided by it.

    A panel looks at the images once. The study may have looked several times, which makes its interval wider.
    """
    front = tuple(_point(best, point) for point in best.front)
    return msgspec.structs.replace(best, chosen=_point(best, best.chosen), front=front)


def _point(best: BestConfig, point: MeasuredPoint) -> MeasuredPoint:
    panel, metric = point.panel or {}, best.quality_metric
    result = panel.get(metric)
    if point.trial == best.baseline.trial or result is None or result.difference is None:
        return point
    return msgspec.structs.replace(point, panel={**panel, metric: _decided(result, point.quality_difference)})


def _decided(result: MetricResult, difference: Estimate) -> MetricResult:
    """Return a result with the study's difference, of which more is better, and what it means beside the floor."""
    negated = Estimate(value=-difference.value, low=-difference.high, high=-difference.low)
    return msgspec.structs.replace(
        result,
        difference=difference if result.higher_is_better else negated,
        verdict="not judged" if result.floor is None else verdict(difference, result.floor),
    )

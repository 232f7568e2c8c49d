"""All metrics of the chosen configuration's images: the objective, which alone decides, and the others beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.numbers import format_exact
from tuner.records.quality import MetricResult
from tuner.report.study_report import StudyReport

BESIDE_ROUNDING: Mapping[str, str] = {
    "same": "no larger", "better": "larger, and better", "worse": "larger, and worse",
    "in doubt": "these prompts do not tell", "not judged": "not known",
}  # fmt: skip
"""What a difference from the baseline is beside that of images that only rounding changed."""

OF_DISTANCE: Mapping[str, str] = {**BESIDE_ROUNDING, "worse": "larger"}
"""The same of a distance from the baseline's images: a larger one need not be damage."""


@dataclass(frozen=True)
class ShownMetric:
    """A metric of the baseline's images and of the chosen ones, and what it says of them."""

    before: MetricResult | None
    after: MetricResult
    text: str
    decides: bool


def metrics(report: StudyReport) -> list[ShownMetric]:
    """Return the metrics that were measured of the chosen configuration, the objective first."""
    before, after = report.best.baseline.panel or {}, report.best.chosen.panel or {}
    found = [_metric(report, name, before.get(name), result) for name, result in after.items()]
    return sorted(found, key=lambda metric: not metric.decides)


def _metric(report: StudyReport, name: str, before: MetricResult | None, after: MetricResult) -> ShownMetric:
    best = report.best
    if name == best.quality_metric:
        text = f"decides: as good, tolerated loss {format_exact(best.quality_tolerance)}"
        return ShownMetric(before, after, text, decides=True)
    texts = OF_DISTANCE if after.difference is None else BESIDE_ROUNDING
    return ShownMetric(before, after, texts[after.verdict], decides=False)

"""The table of metrics. To add one, write its file and add a line to METRICS."""

from __future__ import annotations

from collections.abc import Mapping

from tuner.errors import BadInput, did_you_mean
from tuner.quality.metrics import adherence, distribution, fidelity
from tuner.quality.metrics.base import Metric, MetricContext
from tuner.quality.metrics.custom import ENTRY_POINT, CustomMetric
from tuner.quality.metrics.entry_point import spelling_hint

__all__ = ["METRICS", "OBJECTIVES", "CustomMetric", "Metric", "MetricContext", "get_metric", "get_objective"]

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        adherence.ClipScore(),
        adherence.Preference(),
        adherence.ImageReward(),
        adherence.Hps(),
        fidelity.ClipSimilarity(),
        fidelity.Psnr(),
        fidelity.Ssim(),
        fidelity.MsSsim(),
        fidelity.Lpips(),
        fidelity.TemporalConsistency(),
        distribution.Cmmd(),
        distribution.Fid(),
        distribution.Kid(),
    )
}

OBJECTIVES = tuple(name for name, metric in METRICS.items() if metric.tolerance is not None)
"""The metrics that `--quality` accepts, besides `module:function`."""


def get_metric(name: str) -> Metric:
    """Return the metric of a name or of an entry point `module:function`.

    Raises BadInput, listing the metrics, if there is none of this name.
    """
    if name in METRICS:
        return METRICS[name]
    if ENTRY_POINT.fullmatch(name):
        return CustomMetric(name)
    hint = spelling_hint(name) or did_you_mean(
        name, METRICS, f"use {', '.join(OBJECTIVES)}, or your own module:function"
    )
    raise BadInput(f"--quality {name}: no such metric; {hint}")


def get_objective(name: str) -> Metric:
    """Return the metric of a name if it can be the objective of the search. Raises BadInput if it cannot."""
    metric = get_metric(name)
    if metric.tolerance is None and not isinstance(metric, CustomMetric):
        raise BadInput(
            f"--quality {name}: it cannot be the objective: {metric.no_objective_reason}; use {', '.join(OBJECTIVES)}"
        )
    return metric

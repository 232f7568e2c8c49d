"""Every metric, by name: an explicit table."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from tuner.errors import BadInput
from tuner.quality.metrics.adherence import ClipScore, Hps, ImageReward, Preference
from tuner.quality.metrics.base import Metric, Setting
from tuner.quality.metrics.custom import ENTRY_POINT, CustomMetric
from tuner.quality.metrics.distribution import Cmmd, Fid, Kid
from tuner.quality.metrics.fidelity import ClipSimilarity, Lpips, MsSsim, Psnr, Ssim, TemporalConsistency

__all__ = ["AXES", "METRICS", "CustomMetric", "Metric", "Setting", "axis", "metric"]

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        ClipScore(),
        Preference(),
        ImageReward(),
        Hps(),
        ClipSimilarity(),
        Psnr(),
        Ssim(),
        MsSsim(),
        Lpips(),
        TemporalConsistency(),
        Cmmd(),
        Fid(),
        Kid(),
    )
}

AXES = tuple(name for name, found in METRICS.items() if found.tolerance is not None)
"""What `--quality` takes, besides `module:function`."""


def metric(name: str) -> Metric:
    """The metric of a name or an entry point `module:function`.

    Raises BadInput naming those that there are.
    """
    if name in METRICS:
        return METRICS[name]
    if ENTRY_POINT.fullmatch(name):
        return CustomMetric(name)
    near = difflib.get_close_matches(name, METRICS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(AXES)}, and module:function of your own"
    raise BadInput(f"--quality {name}: no such metric; {hint}")


def axis(name: str) -> Metric:
    """The metric of a name, if it can be the axis of the search. Raises BadInput for another."""
    found = metric(name)
    if found.tolerance is None and not isinstance(found, CustomMetric):
        why = "equal images have no finite PSNR" if name == "psnr" else "it has no value for a single prompt"
        raise BadInput(f"--quality {name}: it cannot be the axis: {why}; take one of {', '.join(AXES)}")
    return found

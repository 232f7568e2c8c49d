"""The contract of every metric, and the checks that several metrics share."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

from tuner.files import absent
from tuner.quality.clip import Clip
from tuner.quality.images import Images
from tuner.records.codec import Estimate

Comparison = Literal["prompt", "baseline", "real images", "itself"]


class MetricContext:
    """The device and the models that metrics are computed with.

    `scorer` is the folder or hub id of the CLIP model. `metric_paths` holds the path that the user gave for a metric,
    by the metric's name. `requested` names the metrics that the user asked for: only these may download weights. With
    None every metric may.
    """

    def __init__(
        self, device: str, scorer: str, metric_paths: Mapping[str, str], requested: Collection[str] | None = None
    ) -> None:  # fmt: skip
        self.device = device
        self.scorer = scorer
        self.metric_paths = metric_paths
        self.requested = requested

    @cached_property
    def clip(self) -> Clip:
        """The CLIP model, loaded on first use."""
        return Clip(self.scorer, self.device)


class Metric:
    """A measure of image quality. It implements either `scores` (a value per prompt) or `distance` (one per set).

    `needs` describes what it requires besides the images, and `cost` what it computes per image. `tolerance`, in the
    metric's unit, is how much worse than the baseline still counts as equally good when the metric is the objective of
    the search. It is None for a metric that cannot be the objective, for the reason in `no_objective_reason`. A metric
    of a whole set has no paired difference, so it cannot be the objective.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    compared_with: ClassVar[Comparison] = "prompt"
    needs: ClassVar[str] = "nothing"
    cost: ClassVar[str] = "arithmetic on its pixels"
    tolerance: ClassVar[float | None] = None
    no_objective_reason: ClassVar[str] = "it has no value for a single prompt"
    has_verdict: ClassVar[bool] = True
    """Whether its interval is one of the difference, so that it can be compared with the noise floor."""

    identity_score: ClassVar[float | None] = None
    """The score of the baseline's images against themselves, or None if it must be measured."""

    def unavailable_reason(self, context: MetricContext) -> str | None:
        """Return what is missing on this machine and how to get it, or None. Loads nothing."""
        return None

    def unsuitable_reason(self, images: Images) -> str | None:
        """Return why the metric does not apply to these images, or None."""
        return None

    def skip_reason(self, context: MetricContext, images: Images) -> str | None:
        """Return why the metric cannot be computed for these images on this machine, or None."""
        return self.unavailable_reason(context) or self.unsuitable_reason(images)

    def scores(self, images: Images, baseline: Images, context: MetricContext) -> tuple[float, ...]:
        """Compute one value per prompt, in the metric's unit."""
        raise NotImplementedError

    def distance(self, images: Images, baseline: Images, context: MetricContext) -> Estimate | None:
        """Compute one value for the whole set, or return None if the metric scores prompt by prompt."""
        return None


def missing_weights(name: str, context: MetricContext, *files: Path) -> str | None:
    """Return why a metric must not download its weights, or None.

    It may if the user requested it, and it need not if all `files` exist. Each may be a glob pattern.
    """
    if context.requested is None or name in context.requested:
        return None
    if all(any(Path(file.anchor).glob(str(file.relative_to(file.anchor)))) for file in files):
        return None
    return f"its weights are not on this machine; download them with --quality {name}, or --metric {name}=."


def missing_path(name: str, context: MetricContext, description: str) -> str | None:
    """Return why the file or folder that the user must give for a metric is not there, or None."""
    path = context.metric_paths.get(name)
    if path is None:
        return f"it needs {description}: --metric {name}=PATH"
    return None if Path(path).exists() else f"--metric {name}={path}: {absent(path, 'file or folder')}"


def missing_package(package: str, because: str = "") -> str | None:
    """Return that a package is not installed and how to install it, or None."""
    installed = package in sys.modules or find_spec(package) is not None
    return None if installed else f"the package {package} is not installed{because}: pip install {package}"


def cache_folder(variable: str, name: str) -> Path:
    """Return a library's download folder: the environment variable's, or `name` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(variable) or f"{cache}/{name}").expanduser().absolute()

"""The contract of every metric."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

from tuner.quality.clip import Clip
from tuner.quality.images import Images
from tuner.records.codec import Estimate

Against = Literal["prompt", "baseline", "real images", "itself"]


class Setting:
    """Where metrics are computed and with what: the CLIP model, loaded when it is first asked for, and what the user
    pointed metrics to, by their names. `named` are the metrics that the user asked for, which alone may fetch weights;
    None when no other is measured."""

    def __init__(
        self, device: str, scorer: str, given: Mapping[str, str], named: Collection[str] | None = None
    ) -> None:  # fmt: skip
        self.device = device
        self.scorer = scorer
        self.given = given
        self.named = named

    @cached_property
    def clip(self) -> Clip:
        return Clip(self.scorer, self.device)


class Metric:
    """One way to judge images: `scores` gives a value for every prompt, or `distance` one for the whole set.

    `needs` says in words what it needs besides the images, `cost` what an image costs. `tolerance`, in the metric's
    unit, is how much worse than the baseline's is still as good when the metric is the axis of the search; None where
    it cannot be the axis. A metric of the whole set has no paired difference and is no axis.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    against: ClassVar[Against] = "prompt"
    needs: ClassVar[str] = "nothing"
    cost: ClassVar[str] = "arithmetic on its pixels"
    tolerance: ClassVar[float | None] = None
    has_verdict: ClassVar[bool] = True
    """Whether its interval is one of the difference, which a noise floor can be compared with."""

    own_value: ClassVar[float | None] = None
    """What the baseline's images score against themselves; None where that must be measured."""

    def unavailable_reason(self, setting: Setting) -> str | None:
        """What is missing here, with what to do about it, or None. Loads nothing."""
        return None

    def unsuited(self, images: Images) -> str | None:
        """Why it says nothing of such images, or None."""
        return None

    def unavailable(self, setting: Setting, images: Images) -> str | None:
        """Why the metric cannot be had here of these images, or None."""
        return self.unavailable_reason(setting) or self.unsuited(images)

    def scores(self, images: Images, baseline: Images, setting: Setting) -> tuple[float, ...]:
        """One value for each prompt, in the metric's unit."""
        raise NotImplementedError

    def distance(self, images: Images, baseline: Images, setting: Setting) -> Estimate | None:
        """One value for the whole set, or None for a metric that scores prompt by prompt."""
        return None


def unasked(name: str, setting: Setting, *files: Path) -> str | None:
    """Why a metric may not be measured whose package fetches weights, or None when it was asked for or when the files
    that it would fetch are there; each may be a glob pattern."""
    if setting.named is None or name in setting.named:
        return None
    if all(any(Path(file.anchor).glob(str(file.relative_to(file.anchor)))) for file in files):
        return None
    return f"its weights are not here, and are fetched only when asked for: --quality {name}, or --metric {name}=."


def cached(variable: str, name: str) -> Path:
    """The folder that a library keeps its downloads in: the environment variable's, or in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(variable) or f"{cache}/{name}").expanduser().absolute()


def missing(package: str, because: str = "") -> str | None:
    """Why a package is not there and how to get it, or None when it is."""
    found = package in sys.modules or find_spec(package) is not None
    return None if found else f"the package {package} is not installed{because}: pip install {package}"

"""Records of image quality: the policy, references, scores and the finalists' panel."""

from __future__ import annotations

from typing import Literal

import msgspec

from tuner.records.codec import Estimate, Record
from tuner.records.model import Workload


class QualityPolicy(Record):
    """By what images are judged: `metric` is the axis of the search, the name of a metric or `module:function` of the
    user's own. `metric_paths` is what the user points metrics to, by metric name: a model's folder, weights, images."""

    metric: str = "clip_score"
    metric_paths: dict[str, str] = msgspec.field(default_factory=dict)


class NoiseFloor(Record):
    """How far harmless variations of rounding move the untouched pipeline's own images on the axis of the search.

    `axis` is the largest end of a variation's 95 % interval of the difference (None without any), `variations` folders
    of images by what was varied, `unavailable_reasons` says which could not be
    drawn, and why, and `spent_s` how long it took.
    """

    axis: float | None
    variations: dict[str, str]
    unavailable_reasons: tuple[str, ...] = ()
    spent_s: float = 0.0


class Reference(Record):
    """The baseline's images (a folder with 0000.png, 0001.png, ...) and their scores, prompt by prompt.

    `other_seeds` is a folder with the same prompts' images from other seeds, `denoiser` a file with what the
    baseline's denoiser was given and gave back, `floor` what rounding alone moves the axis by.
    """

    images: str
    scores: tuple[float, ...]
    other_seeds: str | None = None
    denoiser: str | None = None
    floor: float | None = None


class SpotCheck(Record):
    """Images that another build made with the same image key, which a new build must reproduce up to rounding."""

    images: str


class DenoiserError(Record):
    """How far a candidate's denoiser is from the baseline's when it is given the baseline's own latents: the relative
    error (of the Euclidean norm, 0 is none) of each of its calls in turn."""

    per_call: tuple[float, ...]
    mean: float
    largest: float


class Quality(Record):
    """Scores of a configuration's images, prompt by prompt, and the mean paired difference from the baseline's.

    More is always better: of a metric of which less is better these are the negative values. `flags` says what a person
    should look at, `spent_s` is what drawing and judging the images took. Only the baseline has a noise floor.
    """

    metric: str
    scores: tuple[float, ...]
    mean: float
    difference: Estimate
    psnr_db: float | None
    ssim: float | None
    reused_from: int | None = None
    flags: tuple[str, ...] = ()
    noise: NoiseFloor | None = None
    denoiser_error: DenoiserError | None = None
    denoiser_error_unavailable_reason: str | None = None
    spent_s: float = 0.0


class MetricResult(Record):
    """What one metric says of a finalist's images, in its `unit`. `difference` is from the baseline's value, paired
    image by image; of a metric that compares with the baseline's images it is absent. `floor` is what harmless
    variations of rounding move the metric by, and the verdict is stated against it."""

    title: str
    unit: str
    higher_is_better: bool
    value: Estimate
    difference: Estimate | None
    floor: float | None
    verdict: Literal["same", "better", "worse", "in doubt", "not judged"]
    ms_per_image: float


class PanelJob(Record):
    """What the process that judges the finalists is asked: folders of images, by trial; the baseline is trial 0.

    `scorer` is the CLIP model's folder or hub id, `strips` the folder that takes the strips of images, `variations`
    folders of the baseline's first images drawn with other rounding.
    """

    workload: Workload
    device: Literal["cuda", "cpu"]
    scorer: str
    policy: QualityPolicy
    images: dict[int, str]
    strips: str
    variations: tuple[str, ...] = ()


class Panel(Record):
    """All metrics of the finalists, by trial and by the metric's name; `unavailable_reasons` says which are missing."""

    finalists: dict[int, dict[str, MetricResult]]
    unavailable_reasons: dict[str, str]

"""Records of image quality: the policy, references, scores and the finalists' panel."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tuner.records.codec import Count, Estimate, NonNegative, Record, Score, Seconds
from tuner.records.model import Workload

Decibels = Annotated[float, msgspec.Meta(ge=-1000, le=1000)]
Similarity = Annotated[float, msgspec.Meta(ge=-1.001, le=1.001)]
Scores = Annotated[tuple[Score, ...], msgspec.Meta(min_length=1)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class QualityPolicy(Record):
    """The metrics that images are scored by.

    `metric` is the objective of the search: the name of a metric, or `module:function` for a custom one. `metric_paths`
    holds the path that the user gave for a metric (a model's folder, weights, images), by the metric's name.
    """

    metric: str = "clip_score"
    metric_paths: dict[str, str] = msgspec.field(default_factory=dict)


class NoiseFloor(Record):
    """The change of the objective when the baseline's images are generated with different rounding.

    `max_difference` is the largest absolute end of the 95 % intervals of the differences, or None if no variation could
    be generated. `variations` holds folders of images by the name of the variation. `unavailable_reasons` names the
    variations that could not be generated, and why. `spent_s` is the time it took, in seconds.
    """

    max_difference: NonNegative | None
    variations: dict[str, str]
    unavailable_reasons: tuple[str, ...] = ()
    spent_s: Seconds = 0.0


class Reference(Record):
    """The baseline's images (a folder with 0000.png, 0001.png, ...) and their scores, one per prompt.

    `other_seeds` is a folder with images of the same prompts from other seeds, `denoiser` a file with the recorded
    inputs and outputs of the baseline's denoiser, and `floor` the noise floor of the objective.
    """

    images: str
    scores: Scores
    other_seeds: str | None = None
    denoiser: str | None = None
    floor: NonNegative | None = None


class SpotCheck(Record):
    """Images of another build with the same image key. A new build must reproduce them up to rounding.

    Each image must reach `min_psnr_db`: below the default it has changed by more than rounding does.
    """

    images: str
    min_psnr_db: NonNegative = 25.0


class DenoiserError(Record):
    """The error of a candidate's denoiser on the baseline's latents.

    `per_call` holds the relative error (in the Euclidean norm, 0 for equal outputs) of each call in turn; of a slow
    pipeline's calls that of a few, spread over all steps.
    """

    per_call: Annotated[tuple[NonNegative, ...], msgspec.Meta(min_length=1)]
    mean: NonNegative
    largest: NonNegative


class Quality(Record):
    """The scores of a configuration's images, one per prompt, and the mean paired difference from the baseline's.

    Higher is always better: for a metric where lower is better these are the negated values. `flags` lists what a
    person should check. `spent_s` is the time to generate and score the images, in seconds. Only the baseline has a
    noise floor.
    """

    metric: str
    scores: Scores
    mean: Score
    difference: Estimate
    psnr_db: Decibels | None
    ssim: Similarity | None
    reused_from: Count | None = None
    flags: tuple[str, ...] = ()
    noise: NoiseFloor | None = None
    denoiser_error: DenoiserError | None = None
    denoiser_error_unavailable_reason: str | None = None
    spent_s: Seconds = 0.0


class MetricResult(Record):
    """One metric of a finalist's images, in its `unit`.

    `difference` is the paired difference from the baseline, or None for a metric that compares with the baseline's
    images. `floor` is the noise floor of the metric, which the verdict refers to.
    """

    title: str
    unit: str
    higher_is_better: bool
    value: Estimate
    difference: Estimate | None
    floor: NonNegative | None
    verdict: Literal["same", "better", "worse", "in doubt", "not judged"]
    ms_per_image: Milliseconds


class PanelJob(Record):
    """The input of the process that computes all metrics of the finalists.

    `images` holds folders of images by trial, where trial 0 is the baseline. `scorer` is the CLIP model's folder or hub
    id, `strips` the output folder of the image strips, and `variations` are folders of the baseline's first images
    generated with different rounding.
    """

    workload: Workload
    device: Literal["cuda", "cpu"]
    scorer: str
    policy: QualityPolicy
    images: dict[Count, str]
    strips: str
    variations: tuple[str, ...] = ()


class Panel(Record):
    """All metrics of the finalists, by trial and metric. `unavailable_reasons` names the missing ones, and why."""

    finalists: dict[Count, dict[str, MetricResult]]
    unavailable_reasons: dict[str, str]

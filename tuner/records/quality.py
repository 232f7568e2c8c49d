"""Records of image quality: the policy, references, scores and the finalists' panel."""

from __future__ import annotations

from typing import Literal

import msgspec

from tuner.records.codec import Estimate, Record
from tuner.records.model import Workload


class QualityPolicy(Record):
    """By what pictures are judged: `metric` is the axis of the search, the name of a metric or `module:function` of the
    user's own. `given` is what the user points metrics to, by their names: a model's folder, weights, pictures."""

    metric: str = "clip_score"
    given: dict[str, str] = msgspec.field(default_factory=dict)


class NoiseFloor(Record):
    """How far harmless variations of rounding move the untouched pipeline's own pictures on the axis of the search.

    `axis` is the largest end of a variation's 95 % interval of the difference (None without any), `variations` folders
    of pictures by what was varied, `lacks` says which could not be drawn, and why, and `spent_s` how long it took.
    """

    axis: float | None
    variations: dict[str, str]
    lacks: tuple[str, ...] = ()
    spent_s: float = 0.0


class Reference(Record):
    """The baseline's pictures (a folder with 0000.png, 0001.png, ...) and their scores, prompt by prompt.

    `other_seeds` is a folder with the same prompts' pictures from other seeds, `denoiser` a file with what the
    baseline's denoiser was given and gave back, `floor` what rounding alone moves the axis by.
    """

    images: str
    scores: tuple[float, ...]
    other_seeds: str | None = None
    denoiser: str | None = None
    floor: float | None = None


class SpotCheck(Record):
    """Pictures that another build made with the same image key, which a new build must reproduce up to rounding."""

    images: str


class DenoiserError(Record):
    """How far a candidate's denoiser is from the baseline's when it is given the baseline's own latents: the relative
    error (of the Euclidean norm, 0 is none) of each of its calls in turn."""

    per_call: tuple[float, ...]
    mean: float
    largest: float


class Quality(Record):
    """Scores of a configuration's pictures, prompt by prompt, and the mean paired difference from the baseline's.

    More is always better: of a metric of which less is better these are the negative values. `flags` says what a person
    should look at, `spent_s` is what drawing and judging the pictures took. Only the baseline has a noise floor.
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
    denoiser_error_lacks: str | None = None
    spent_s: float = 0.0


class Judged(Record):
    """What one metric says of a finalist's pictures, in its `unit`. `difference` is from the baseline's value, paired
    picture by picture; of a metric that compares with the baseline's pictures it is absent. `floor` is what harmless
    variations of rounding move the metric by, and the verdict is stated against it."""

    title: str
    unit: str
    higher_is_better: bool
    value: Estimate
    difference: Estimate | None
    floor: float | None
    verdict: Literal["same", "better", "worse", "in doubt", "not judged"]
    ms_per_picture: float


class PanelJob(Record):
    """What the process that judges the finalists is asked: folders of pictures, by trial; the baseline is trial 0.

    `scorer` is the CLIP model's folder or hub id, `strips` the folder that takes the strips of pictures, `variations`
    folders of the baseline's first pictures drawn with other rounding.
    """

    workload: Workload
    device: Literal["cuda", "cpu"]
    scorer: str
    policy: QualityPolicy
    images: dict[int, str]
    strips: str
    variations: tuple[str, ...] = ()


class Panel(Record):
    """All metrics of the finalists, by trial and by the metric's name; `lacks` says which could not be had, and why."""

    finalists: dict[int, dict[str, Judged]]
    lacks: dict[str, str]

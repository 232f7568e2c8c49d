"""The verdict on a configuration's images: guards, then the objective of the search, compared with the baseline's."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuner.errors import Unavailable
from tuner.numbers import format_number
from tuner.quality import guards, similarity
from tuner.quality.images import Images, stills_per_image, to_stills
from tuner.quality.metrics import CustomMetric, Metric, MetricContext, get_objective
from tuner.quality.statistics import mean_of, paired_difference
from tuner.records.codec import Estimate
from tuner.records.model import Workload
from tuner.records.quality import Quality, Reference, SpotCheck

SPOT_CHECKED = 2
"""The images of a spot check: one could be alike by chance."""


class Judge:
    """Judges the images of one workload on one metric, the objective of the search."""

    def __init__(self, metric: str, context: MetricContext, workload: Workload) -> None:
        self.metric = get_objective(metric)
        self.context = context
        self.workload = workload

    def judge(self, images: Any, reference: Reference | None, folder: Path, draws_same_noise: bool = True) -> Quality:
        """Score the images of all prompts (float array (count, height, width, 3) in 0..1) and save them to `folder`.

        Videos (count, frames, height, width, 3) are judged by pairs of neighbouring frames. Without a reference the
        images are the baseline's, and compare equal to themselves. `draws_same_noise` is false where the seeds mean
        other noise than the baseline's. Raises InvalidImage, and Unavailable naming what the metric lacks.
        """
        return self.begin(reference, folder, draws_same_noise).add(images, len(self.workload.prompts))

    def begin(self, reference: Reference | None, folder: Path, draws_same_noise: bool = True) -> Judging:
        """Begin to judge images, as many as leave no doubt."""
        return Judging(self, reference, folder, draws_same_noise)


class Judging:
    """The images of one configuration that were judged so far. Each is judged once, however many follow."""

    def __init__(self, judge: Judge, reference: Reference | None, folder: Path, draws_same_noise: bool) -> None:
        self.judge = judge
        self.reference = reference
        self.folder = folder
        self.draws_same_noise = draws_same_noise
        self.ours: Images | None = None
        self.baseline: Images | None = None
        self.other_seeds: Images | None = None
        self.scores: tuple[float, ...] = ()
        self.psnr_db: list[float] = []
        self.ssim: list[float] = []
        self.spent_s = 0.0

    def add(self, images: Any, end: int, confidence: float = 0.95) -> Quality:
        """Judge the images of the prompts that follow, up to the index `end`, with all those before.

        `confidence` is that of the difference's interval.
        """
        started = time.monotonic()
        judge, first = self.judge, 0 if self.ours is None else len(self.ours.prompts)
        if self.ours is None:
            self.load(stills_per_image(images))
        known = None if self.baseline is None else self.baseline.part(first, end)
        guards.check_each(images, range(first, end), judge.workload, None if known is None else known.stills)
        added = Images.from_pipeline(images, judge.workload.prompts[first:end])
        self.scores += objective_scores(judge.metric, added, known, judge.context)
        ours = self.ours = added if self.ours is None else self.ours.extended(added)
        self.check(ours)
        added.save(self.folder, first * added.stills_per_prompt)
        ours.save_features(self.folder)
        if known is not None:
            psnr_db, ssim = similarity.psnr_and_ssim(added.stills, known.stills, judge.context.device)
            self.psnr_db, self.ssim = [*self.psnr_db, *psnr_db], [*self.ssim, *ssim]
        self.spent_s += time.monotonic() - started
        return self.quality(confidence)

    def load(self, stills_per_prompt: int) -> None:
        """Load the images of the reference. Raises OSError if one is missing."""
        reference, prompts = self.reference, self.judge.workload.prompts
        if reference is None:
            return
        self.baseline = Images.load_all(Path(reference.images), prompts, stills_per_prompt)
        if reference.other_seeds and self.draws_same_noise:
            self.other_seeds = Images.load(Path(reference.other_seeds), prompts, stills_per_prompt=stills_per_prompt)

    def check(self, ours: Images) -> None:
        """Check what only several images together show. Raises InvalidImage."""
        stills = ours.stills.reshape(len(ours.prompts), -1, *ours.stills.shape[1:])
        guards.check_different(stills, self.judge.workload)
        if self.baseline is None:
            return
        baseline = self.baseline.first(len(ours.prompts))
        if self.other_seeds is not None:
            guards.check_seeds(ours.stills, baseline.stills, self.other_seeds.stills[: len(ours.stills)])
        self.check_prompts(ours, baseline)

    def check_prompts(self, images: Images, baseline: Images) -> None:
        """Check that prompts are not ignored, where the objective made the CLIP model embed the images anyway."""
        context = self.judge.context
        if context.scorer not in images.features or len(set(images.prompts)) < 2:
            return
        said = context.clip.embed_prompts(images.prompts)
        each = images.stills_per_prompt
        seen, known = (context.clip.embed_images(of)[::each] for of in (images, baseline))
        guards.check_prompts(guards.margins(seen, said), guards.margins(known, said))

    def quality(self, confidence: float) -> Quality:
        """Return the verdict on the images so far."""
        metric, reference, scores = self.judge.metric, self.reference, self.scores
        if reference is None:
            same = Estimate(value=0.0, low=0.0, high=0.0)
            mean = sum(scores) / len(scores)
            return Quality(metric=metric.name, scores=scores, mean=mean, difference=same, psnr_db=None, ssim=None,
                           spent_s=self.spent_s)  # fmt: skip
        difference = paired_difference(scores, reference.scores[: len(scores)], confidence=confidence)
        return Quality(
            metric=metric.name,
            scores=scores,
            mean=sum(reference.scores) / len(reference.scores) + difference.value,
            difference=difference,
            psnr_db=sum(self.psnr_db) / len(self.psnr_db),
            ssim=sum(self.ssim) / len(self.ssim),
            flags=flags(metric, difference, reference.floor),
            spent_s=self.spent_s,
        )


def objective_scores(
    metric: Metric, images: Images, baseline: Images | None, context: MetricContext
) -> tuple[float, ...]:
    """Return a metric's value for each prompt, negated where less is better; the baseline's without a baseline.

    Raises Unavailable naming the metric, what it lacks, and what would work without.
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    if baseline is None and metric.identity_score is not None:
        return (sign * metric.identity_score,) * len(images.prompts)
    reason = metric.skip_reason(context, images)
    if reason:
        raise Unavailable(f"--quality {metric.name}: {reason}; psnr, ssim and ms_ssim need no weights")
    values = metric.scores(images, images if baseline is None else baseline, context)
    return tuple(sign * value for value in values)


def flags(metric: Metric, difference: Estimate, floor: float | None) -> tuple[str, ...]:
    """Return what a person should look at: images that are suddenly better than the baseline's."""
    if floor is None or isinstance(metric, CustomMetric) or difference.low <= floor:
        return ()
    scores = f"better than the baseline's by at least {format_number(difference.low)}, rounding alone moves them by "
    return (f"its images score {scores}{format_number(floor)}: what only speeds up a pipeline does not; look at them",)


def compare(
    asked: Metric, images: Images, baseline: Images, context: MetricContext
) -> tuple[Estimate, Estimate | None, Estimate]:
    """Return the value with its interval, the paired difference if any, and by how much better it is than the
    baseline's own.

    Raises ArithmeticError when the metric gives NaN or infinity.
    """
    sign = 1.0 if asked.higher_is_better else -1.0
    distance = asked.distance(images, baseline, context)
    if distance is not None:
        own = asked.distance(baseline, baseline, context) if asked.name in context.metric_paths else None
        _check_finite(asked, (distance.value, distance.low, distance.high, 0.0 if own is None else own.value))
        return distance, None, _shifted(distance, 0.0 if own is None else own.value, sign)
    scores = asked.scores(images, baseline, context)
    _check_finite(asked, scores)
    value = mean_of(scores)
    if asked.identity_score is not None:
        return value, None, _shifted(value, asked.identity_score, sign)
    own_scores = asked.scores(baseline, baseline, context)
    _check_finite(asked, own_scores)
    difference = paired_difference(scores, own_scores)
    return value, difference, _shifted(difference, 0.0, sign)


def on_all_prompts(value: Estimate, difference: Estimate, baseline_mean: float) -> Estimate:
    """Shift a mean over the first prompts to the baseline's over all prompts plus the paired difference.

    Only so are trials comparable that were scored on different numbers of prompts. `Quality.mean` is the same.
    """
    return _shifted(value, value.value - (baseline_mean + difference.value), 1.0)


def noise_floor(asked: Metric, baseline: Images, variations: Sequence[Images], context: MetricContext) -> float | None:
    """Return the largest end of the 95 % intervals by which variations of rounding move a metric, or None."""
    ends = []
    for varied in variations:
        part = baseline.first(len(varied.prompts))
        if asked.skip_reason(context, part) is None:
            _, _, judged = compare(asked, varied, part, context)
            ends.append(max(abs(judged.low), abs(judged.high)))
    return max(ends, default=None)


def _check_finite(asked: Metric, values: Sequence[float]) -> None:
    if not all(map(math.isfinite, values)):
        raise ArithmeticError(f"{asked.name} gives NaN or infinity")


def _shifted(estimate: Estimate, origin: float, sign: float) -> Estimate:
    ends = sorted((sign * (estimate.low - origin), sign * (estimate.high - origin)))
    return Estimate(value=sign * (estimate.value - origin), low=ends[0], high=ends[1])


def same_images(images: Any, known: SpotCheck, workload: Workload) -> bool:
    """Return whether the first images of a new build are those of a scored build, up to rounding.

    Raises InvalidImage when they are no images at all.
    """
    guards.check(images, len(images), workload)
    those = Images.load(Path(known.images), workload.prompts, len(images), stills_per_image(images))
    stills = to_stills(images)[: len(those.stills)]
    return min(similarity.psnr_db(stills, those.stills)) >= known.min_psnr_db

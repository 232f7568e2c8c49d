"""The verdict on a configuration's pictures: guards, then scores, then the paired comparison with the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuner.quality import guards, similarity
from tuner.quality.clip_score import ClipScorer
from tuner.record import Estimate, Quality, Reference, SpotCheck, Workload

SPOT_CHECKED = 2
SPOT_PSNR_DB = 25.0
"""Below it a picture has changed by more than rounding does, and is scored anew."""


def judge(pictures: Any, workload: Workload, reference: Reference | None, scorer: ClipScorer, folder: Path) -> Quality:
    """Score all pictures of the workload (float array (count, height, width, 3) in 0..1) and save them to `folder`.

    Videos (count, frames, height, width, 3) are judged by their first, middle and last frame. Without a reference the
    pictures are the baseline's, and compare equal to themselves. Raises InvalidPicture.
    """
    guards.check(pictures, len(workload.prompts), workload)
    stills = flat(pictures)
    images = similarity.save(stills, folder)
    each = len(stills) // len(pictures)
    of_stills = scorer.scores(images, [prompt for prompt in workload.prompts for _ in range(each)])
    scores = tuple(sum(of_stills[start : start + each]) / each for start in range(0, len(of_stills), each))
    mean = sum(scores) / len(scores)
    if reference is None:
        return Quality(metric="clip_score", scores=scores, mean=mean, difference=Estimate(value=0.0, low=0.0, high=0.0),
                       psnr_db=None, ssim=None)  # fmt: skip
    psnr, ssim = similarity.psnr_and_ssim(stills, similarity.load(reference.images, range(len(images))))
    return Quality(
        metric="clip_score",
        scores=scores,
        mean=mean,
        difference=paired_difference(scores, reference.scores),
        psnr_db=sum(psnr) / len(psnr),
        ssim=sum(ssim) / len(ssim),
    )


def flat(pictures: Any) -> Any:
    """Pictures as they are; of videos the first, the middle and the last frame, one after the other."""
    if pictures.ndim == 4:
        return pictures
    frames = pictures.shape[1]
    chosen = sorted({0, frames // 2, frames - 1})
    return pictures[:, chosen].reshape(-1, *pictures.shape[2:])


def paired_difference(scores: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """Mean of the differences prompt by prompt, with a bootstrap 95 % interval (bias-corrected and accelerated)."""
    import numpy as np
    from scipy.stats import bootstrap

    differences = np.subtract(scores, baseline)
    mean = float(differences.mean())
    if len(differences) < 2:  # one picture says nothing of others: all that two scores can differ by
        return Estimate(value=mean, low=-200.0, high=200.0)
    if np.ptp(differences) == 0:
        return Estimate(value=mean, low=mean, high=mean)
    interval = bootstrap((differences,), np.mean, rng=np.random.default_rng(0)).confidence_interval
    return Estimate(value=mean, low=float(interval.low), high=float(interval.high))


def same_pictures(pictures: Any, known: SpotCheck, workload: Workload) -> bool:
    """Whether the first pictures of a new build are those of a build that was scored, up to rounding.

    Raises InvalidPicture when they are no pictures at all.
    """
    guards.check(pictures, len(pictures), workload)
    stills = flat(pictures)
    psnr, _ = similarity.psnr_and_ssim(stills, similarity.load(known.images, range(len(stills))))
    return min(psnr) >= SPOT_PSNR_DB

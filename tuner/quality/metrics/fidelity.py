"""Metrics of how close an image is to the baseline's at the same prompt and seed.

A difference is not damage: compiling alone changes some pipelines' images visibly without making them worse. Read these
metrics together with the noise floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tuner.quality.images import Images
from tuner.quality.metrics.base import Metric, MetricContext, cache_folder, missing_package, missing_weights
from tuner.quality.similarity import MAX_PSNR_DB, psnr_db, ssim, tensor

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the five scales, each half as wide as the one before."""

ALEXNET = "hub/checkpoints/alexnet-owt-*.pth"
"""The weights behind LPIPS's features, as torchvision names them in torch's cache."""

MIN_SIDE = 11
"""SSIM's window in pixels. The smallest scale must be at least this wide."""


class Psnr(Metric):
    """Peak signal-to-noise ratio in dB, at most 100."""

    name, title, unit = "psnr", "PSNR", "dB"
    compared_with = "baseline"
    no_objective_reason = "equal images have no finite PSNR"
    identity_score = MAX_PSNR_DB

    def scores(self, images: Images, baseline: Images, context: MetricContext) -> tuple[float, ...]:
        return images.mean_by_prompt(psnr_db(images.stills, baseline.stills))


class Ssim(Metric):
    """Structural similarity, -1 to 1. Wang et al., IEEE Transactions on Image Processing, 2004."""

    name, title, unit = "ssim", "SSIM", "of 1"
    compared_with = "baseline"
    tolerance = 0.1
    identity_score = 1.0

    def scores(self, images: Images, baseline: Images, context: MetricContext) -> tuple[float, ...]:
        return images.mean_by_prompt(ssim(images.stills, baseline.stills, context.device))


class MsSsim(Metric):
    """Structural similarity over five scales, 0 to 1. Wang et al., Asilomar 2003.

    Small images have fewer scales. Their weights then sum to 1.
    """

    name, title, unit = "ms_ssim", "MS-SSIM", "of 1"
    compared_with = "baseline"
    tolerance = 0.1
    identity_score = 1.0

    def unsuitable_reason(self, images: Images) -> str | None:
        side = min(images.stills.shape[1:3])
        return None if side >= 2 * MIN_SIDE else f"{side} pixels are too few for two scales of {MIN_SIDE}"

    def scores(self, images: Images, baseline: Images, context: MetricContext) -> tuple[float, ...]:
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

        weights = scale_weights(min(images.stills.shape[1:3]))
        values = []
        for pair in zip(images.stills, baseline.stills, strict=True):  # one by one: five copies of many large ones
            ours, theirs = (tensor(still[None]).to(context.device) for still in pair)
            values.append(
                multiscale_structural_similarity_index_measure(
                    ours, theirs, data_range=1.0, betas=weights, normalize="relu"
                )
            )
        return images.mean_by_prompt([float(value) for value in values])


class Lpips(Metric):
    """Learned perceptual distance (AlexNet), 0 for equal images. Zhang et al., CVPR 2018."""

    name, title, unit = "lpips", "LPIPS", "distance"
    higher_is_better = False
    compared_with = "baseline"
    needs = "the package lpips with its weights"
    cost = "two passes of AlexNet"
    tolerance = 0.1
    identity_score = 0.0

    def unavailable_reason(self, context: MetricContext) -> str | None:
        return missing_package("lpips") or missing_weights(
            self.name, context, cache_folder("TORCH_HOME", "torch") / ALEXNET
        )

    def scores(self, images: Images, baseline: Images, context: MetricContext) -> tuple[float, ...]:
        import torch

        model = _lpips_model().to(context.device)
        values = []
        with torch.inference_mode():
            for pair in zip(tensor(images.stills), tensor(baseline.stills), strict=True):
                ours, theirs = (still[None].to(context.device) * 2 - 1 for still in pair)
                values.append(float(model(ours, theirs)))
        model.to("cpu")
        return images.mean_by_prompt(values)


class ClipSimilarity(Metric):
    """100 times the cosine of the CLIP embeddings of an image and the baseline's.

    It measures whether both show the same content, independent of exact pixel positions.
    """

    name, title, unit = "clip_similarity", "CLIP similarity", "100 x cosine"
    compared_with = "baseline"
    needs = "a CLIP model (--scorer)"
    cost = "one pass of the CLIP model"
    tolerance = 5.0
    identity_score = 100.0

    def scores(self, images: Images, baseline: Images, context: MetricContext) -> tuple[float, ...]:
        cosines = (context.clip.embed_images(images) * context.clip.embed_images(baseline)).sum(-1)
        return images.mean_by_prompt([100 * float(cosine) for cosine in cosines])


class TemporalConsistency(Metric):
    """100 times the cosine of the CLIP embeddings of neighbouring frames of a video. Flicker lowers it.

    After VBench's subject consistency (Huang et al., CVPR 2024), which uses DINO.
    """

    name, title, unit = "temporal_consistency", "Temporal consistency", "100 x cosine"
    compared_with = "itself"
    needs = "videos, and a CLIP model (--scorer)"
    cost = "one pass of the CLIP model"
    tolerance = 1.0

    def unsuitable_reason(self, images: Images) -> str | None:
        return None if images.stills_per_prompt > 1 else "single images have no frames to compare"

    def scores(self, images: Images, baseline: Images, context: MetricContext) -> tuple[float, ...]:
        rows = context.clip.embed_images(images).reshape(len(images.prompts), images.stills_per_prompt, -1)
        paired = rows[:, : images.stills_per_prompt // 2 * 2]
        cosines = (paired[:, ::2] * paired[:, 1::2]).sum(-1).mean(-1)
        return tuple(100 * float(cosine) for cosine in cosines)


def scale_weights(side: int) -> tuple[float, ...]:
    """Return the weights of the scales that fit into images of this side (pixels). They sum to 1."""
    count = max(1, min(len(MS_SSIM_WEIGHTS), (side // MIN_SIDE).bit_length()))
    chosen: Sequence[float] = MS_SSIM_WEIGHTS[:count]
    return tuple(weight / sum(chosen) for weight in chosen)


@lru_cache(maxsize=1)
def _lpips_model() -> Any:
    import lpips

    return lpips.LPIPS(net="alex", verbose=False).eval()

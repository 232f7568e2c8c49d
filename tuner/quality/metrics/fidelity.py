"""How near an image is to the baseline's at the same prompt and seed. Distance is not damage: compiling alone moves
some pipelines' images visibly, and they are as good. Read these beside the noise floor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tuner.quality.images import Images
from tuner.quality.metrics.base import Metric, Setting, cached, missing, unasked
from tuner.quality.similarity import HIGHEST_PSNR_DB, psnr_db, ssim, tensor

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the five scales, each half as wide as the one before."""

ALEXNET = "hub/checkpoints/alexnet-owt-*.pth"
"""In torch's cache, where torchvision keeps what LPIPS takes its features from."""

MIN_SIDE = 11
"""SSIM's window in pixels, which the smallest scale must hold."""


class Psnr(Metric):
    """Peak signal-to-noise ratio in dB, at most 100."""

    name, title, unit = "psnr", "PSNR", "dB"
    against = "baseline"
    own_value = HIGHEST_PSNR_DB

    def scores(self, images: Images, baseline: Images, setting: Setting) -> tuple[float, ...]:
        return images.by_prompt(psnr_db(images.stills, baseline.stills))


class Ssim(Metric):
    """Structural similarity, -1 to 1. Wang et al., IEEE Transactions on Image Processing, 2004."""

    name, title, unit = "ssim", "SSIM", "of 1"
    against = "baseline"
    tolerance = 0.1
    own_value = 1.0

    def scores(self, images: Images, baseline: Images, setting: Setting) -> tuple[float, ...]:
        return images.by_prompt(ssim(images.stills, baseline.stills))


class MsSsim(Metric):
    """Structural similarity over five scales, 0 to 1. Wang et al., Asilomar 2003. Small images have fewer scales,
    whose weights then sum to 1."""

    name, title, unit = "ms_ssim", "MS-SSIM", "of 1"
    against = "baseline"
    tolerance = 0.1
    own_value = 1.0

    def unsuited(self, images: Images) -> str | None:
        side = min(images.stills.shape[1:3])
        return None if side >= 2 * MIN_SIDE else f"{side} pixels are too few for two scales of {MIN_SIDE}"

    def scores(self, images: Images, baseline: Images, setting: Setting) -> tuple[float, ...]:
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

        weights = scales(min(images.stills.shape[1:3]))
        values = multiscale_structural_similarity_index_measure(
            tensor(images.stills), tensor(baseline.stills),
            data_range=1.0, betas=weights, normalize="relu", reduction="none",
        )  # fmt: skip
        return images.by_prompt([float(value) for value in values.reshape(-1)])


class Lpips(Metric):
    """Learned perceptual distance (AlexNet), 0 for equal images. Zhang et al., CVPR 2018."""

    name, title, unit = "lpips", "LPIPS", "distance"
    higher_is_better = False
    against = "baseline"
    needs = "the package lpips with its weights"
    cost = "two passes of AlexNet"
    tolerance = 0.1
    own_value = 0.0

    def unavailable_reason(self, setting: Setting) -> str | None:
        return missing("lpips") or unasked(self.name, setting, cached("TORCH_HOME", "torch") / ALEXNET)

    def scores(self, images: Images, baseline: Images, setting: Setting) -> tuple[float, ...]:
        import torch

        model = _lpips().to(setting.device)
        values = []
        with torch.inference_mode():
            for pair in zip(tensor(images.stills), tensor(baseline.stills), strict=True):
                ours, theirs = (still[None].to(setting.device) * 2 - 1 for still in pair)
                values.append(float(model(ours, theirs)))
        model.to("cpu")
        return images.by_prompt(values)


class ClipSimilarity(Metric):
    """100 times the cosine of the CLIP embeddings of an image and the baseline's: whether both show the same, wherever
    the pixels are."""

    name, title, unit = "clip_similarity", "CLIP similarity", "100 x cosine"
    against = "baseline"
    needs = "a CLIP model (--scorer)"
    cost = "one pass of the CLIP model"
    tolerance = 5.0
    own_value = 100.0

    def scores(self, images: Images, baseline: Images, setting: Setting) -> tuple[float, ...]:
        cosines = (setting.clip.of_images(images) * setting.clip.of_images(baseline)).sum(-1)
        return images.by_prompt([100 * float(cosine) for cosine in cosines])


class TemporalConsistency(Metric):
    """100 times the cosine of the CLIP embeddings of neighbouring frames of a video: flicker lowers it.

    After VBench's subject consistency (Huang et al., CVPR 2024), which uses DINO.
    """

    name, title, unit = "temporal_consistency", "Temporal consistency", "100 x cosine"
    against = "itself"
    needs = "videos, and a CLIP model (--scorer)"
    cost = "one pass of the CLIP model"
    tolerance = 1.0

    def unsuited(self, images: Images) -> str | None:
        return None if images.each > 1 else "single images have no time"

    def scores(self, images: Images, baseline: Images, setting: Setting) -> tuple[float, ...]:
        rows = setting.clip.of_images(images).reshape(len(images.prompts), images.each, -1)
        paired = rows[:, : images.each // 2 * 2]
        cosines = (paired[:, ::2] * paired[:, 1::2]).sum(-1).mean(-1)
        return tuple(100 * float(cosine) for cosine in cosines)


def scales(side: int) -> tuple[float, ...]:
    """The weights of as many of MS-SSIM's five scales as images of this side (pixels) have, summing to 1."""
    count = max(1, min(len(MS_SSIM_WEIGHTS), (side // MIN_SIDE).bit_length()))
    chosen: Sequence[float] = MS_SSIM_WEIGHTS[:count]
    return tuple(weight / sum(chosen) for weight in chosen)


@lru_cache(maxsize=1)
def _lpips() -> Any:
    import lpips

    return lpips.LPIPS(net="alex", verbose=False).eval()

"""Metrics of how well an image matches its prompt."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from tuner.quality.clip import Clip
from tuner.quality.images import Images
from tuner.quality.metrics.base import (
    Metric,
    MetricContext,
    cache_folder,
    missing_package,
    missing_path,
    missing_weights,
)

HPS_WEIGHTS = (
    "models--xswu--HPSv2/snapshots/*/HPS_v2_compressed.pt",
    "models--laion--CLIP-ViT-H-14-laion2B-s32B-b79K/snapshots/*/*",
)
"""Files that the package hpsv2 downloads into the hub's cache."""

BERT = "models--*bert-base-uncased/snapshots/*/*"
"""The tokenizer that the package image-reward downloads into the hub's cache."""


class ClipScore(Metric):
    """100 times the cosine of the embeddings of an image and its prompt.

    Hessel et al., CLIPScore, EMNLP 2021, without their clipping at zero.
    """

    name, title, unit = "clip_score", "CLIP score", "100 x cosine"
    needs = "a CLIP model (--scorer)"
    cost = "one pass of the CLIP model"
    tolerance = 0.5

    def scores(self, images: Images, baseline: Images, context: MetricContext) -> tuple[float, ...]:
        return images.mean_by_prompt([100 * cosine for cosine in cosines(context.clip, images)])


class Preference(Metric):
    """The score of a network of CLIP's architecture, trained on human choices between images of one prompt: its logit
    scale times the cosine.

    Kirstain et al., Pick-a-Pic, NeurIPS 2023 (yuvalkirstain/PickScore_v1). A score higher by 1 means odds of e to 1.
    """

    name, title, unit = "preference", "Preference", "logits"
    needs = "a preference model of CLIP's architecture (--metric preference=FOLDER)"
    cost = "one pass of the preference model"
    tolerance = 0.2

    def unavailable_reason(self, context: MetricContext) -> str | None:
        return missing_path(self.name, context, "a folder of a CLIPModel such as yuvalkirstain/PickScore_v1")

    def scores(self, images: Images, baseline: Images, context: MetricContext) -> tuple[float, ...]:
        model = _preference_model(context.metric_paths[self.name], context.device)
        scale = model.scale()
        return images.mean_by_prompt([scale * cosine for cosine in cosines(model, images)])


class ImageReward(Metric):
    """A reward model of human rankings, about -2 to 2. Xu et al., ImageReward, NeurIPS 2023."""

    name, title, unit = "image_reward", "ImageReward", "reward"
    needs = "the package image-reward with its weights"
    cost = "one pass of BLIP-L"
    tolerance = 0.1

    def unavailable_reason(self, context: MetricContext) -> str | None:
        if missing_package("ImageReward"):
            return "the package ImageReward is not installed: pip install image-reward"
        folder = Path.home() / ".cache" / "ImageReward"
        files = (folder / "ImageReward.pt", folder / "med_config.json", _hub_cache() / BERT)
        return missing_weights(self.name, context, *files)

    def scores(self, images: Images, baseline: Images, context: MetricContext) -> tuple[float, ...]:
        import ImageReward
        import torch

        path = context.metric_paths.get(self.name, "")
        model = ImageReward.load(path if Path(path).is_file() else "ImageReward-v1.0", device=context.device)
        with torch.inference_mode():
            pairs = zip(images.prompt_per_still, images.pil_images, strict=True)
            return images.mean_by_prompt([float(model.score(prompt, image)) for prompt, image in pairs])


class Hps(Metric):
    """Human Preference Score v2, 100 times the cosine. Wu et al., HPS v2, 2023."""

    name, title, unit = "hps", "HPS v2", "100 x cosine"
    needs = "the package hpsv2 with its weights"
    cost = "one pass of CLIP ViT-H"
    tolerance = 0.2

    def unavailable_reason(self, context: MetricContext) -> str | None:
        files = [_hub_cache() / file for file in HPS_WEIGHTS]
        return missing_package("hpsv2") or missing_weights(self.name, context, *files)

    def scores(self, images: Images, baseline: Images, context: MetricContext) -> tuple[float, ...]:
        import hpsv2

        pairs = zip(images.prompt_per_still, images.pil_images, strict=True)
        return images.mean_by_prompt([100 * float(hpsv2.score(image, prompt)[0]) for prompt, image in pairs])


def cosines(model: Clip, images: Images) -> list[float]:
    """Return the cosine of each still's embedding and its prompt's."""
    of_images, of_prompts = model.embed_images(images), model.embed_prompts(images.prompts)
    grouped = of_images.reshape(len(of_prompts), images.stills_per_prompt, -1)
    return [float(cosine) for cosine in (grouped * of_prompts[:, None]).sum(-1).reshape(-1)]


def _hub_cache() -> Path:
    return cache_folder("HF_HOME", "huggingface") / "hub"


@lru_cache(maxsize=1)
def _preference_model(source: str, device: str) -> Clip:
    return Clip(source, device, "--metric preference=FOLDER")

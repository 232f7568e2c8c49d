"""How well an image shows its prompt."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from tuner.quality.clip import Clip
from tuner.quality.images import Images
from tuner.quality.metrics.base import Metric, Setting, cached, missing, unasked

HPS_WEIGHTS = (
    "models--xswu--HPSv2/snapshots/*/HPS_v2_compressed.pt",
    "models--laion--CLIP-ViT-H-14-laion2B-s32B-b79K/snapshots/*/*",
)
BERT = "models--*bert-base-uncased/snapshots/*/*"
"""What the packages fetch into the hub's cache, the last for ImageReward's tokenizer."""


class ClipScore(Metric):
    """100 times the cosine of the image's and its prompt's embeddings.

    Hessel et al., CLIPScore, EMNLP 2021, without their clipping at zero.
    """

    name, title, unit = "clip_score", "CLIP score", "100 x cosine"
    needs = "a CLIP model (--scorer)"
    cost = "one pass of the CLIP model"
    tolerance = 0.5

    def scores(self, images: Images, baseline: Images, setting: Setting) -> tuple[float, ...]:
        return images.by_prompt([100 * cosine for cosine in cosines(setting.clip, images)])


class Preference(Metric):
    """The score by which a network of CLIP's architecture that was trained on people's choices ranks images of one
    prompt: its scale times the cosine.

    Kirstain et al., Pick-a-Pic, NeurIPS 2023 (yuvalkirstain/PickScore_v1); 1 more is odds of e to 1 in favour.
    """

    name, title, unit = "preference", "Preference", "logits"
    needs = "a preference model of CLIP's architecture (--metric preference=FOLDER)"
    cost = "one pass of the preference model"
    tolerance = 0.2

    def unavailable_reason(self, setting: Setting) -> str | None:
        return not_given(self.name, setting, "a folder of a CLIPModel such as yuvalkirstain/PickScore_v1")

    def scores(self, images: Images, baseline: Images, setting: Setting) -> tuple[float, ...]:
        model = _preference(setting.given[self.name], setting.device)
        scale = model.scale()
        return images.by_prompt([scale * cosine for cosine in cosines(model, images)])


class ImageReward(Metric):
    """A reward model of people's rankings, about -2 to 2. Xu et al., ImageReward, NeurIPS 2023."""

    name, title, unit = "image_reward", "ImageReward", "reward"
    needs = "the package image-reward with its weights"
    cost = "one pass of BLIP-L"
    tolerance = 0.1

    def unavailable_reason(self, setting: Setting) -> str | None:
        if missing("ImageReward"):
            return "the package ImageReward is not installed: pip install image-reward"
        folder = Path.home() / ".cache" / "ImageReward"
        own = (folder / "ImageReward.pt", folder / "med_config.json")
        return unasked(self.name, setting, *own, _hub() / BERT)

    def scores(self, images: Images, baseline: Images, setting: Setting) -> tuple[float, ...]:
        import ImageReward
        import torch

        given = setting.given.get(self.name, "")
        model = ImageReward.load(given if Path(given).is_file() else "ImageReward-v1.0", device=setting.device)
        with torch.inference_mode():
            pairs = zip(images.prompt_of_each, images.images, strict=True)
            return images.by_prompt([float(model.score(prompt, image)) for prompt, image in pairs])


class Hps(Metric):
    """Human Preference Score v2, 100 times the cosine. Wu et al., HPS v2, 2023."""

    name, title, unit = "hps", "HPS v2", "100 x cosine"
    needs = "the package hpsv2 with its weights"
    cost = "one pass of CLIP ViT-H"
    tolerance = 0.2

    def unavailable_reason(self, setting: Setting) -> str | None:
        return missing("hpsv2") or unasked(self.name, setting, *(_hub() / file for file in HPS_WEIGHTS))

    def scores(self, images: Images, baseline: Images, setting: Setting) -> tuple[float, ...]:
        import hpsv2

        pairs = zip(images.prompt_of_each, images.images, strict=True)
        return images.by_prompt([100 * float(hpsv2.score(image, prompt)[0]) for prompt, image in pairs])


def cosines(model: Clip, images: Images) -> list[float]:
    """Of each still's and its prompt's embeddings."""
    seen, said = model.of_images(images), model.of_prompts(images.prompts)
    found = (seen.reshape(len(said), images.each, -1) * said[:, None]).sum(-1).reshape(-1)
    return [float(cosine) for cosine in found]


def _hub() -> Path:
    return cached("HF_HOME", "huggingface") / "hub"


def not_given(name: str, setting: Setting, what: str) -> str | None:
    """Why a metric lacks the file or folder that a user must point it to, or None when it is there."""
    path = setting.given.get(name)
    if path is None:
        return f"it needs {what}: --metric {name}=PATH"
    return None if Path(path).exists() else f"--metric {name}={path}: there is no such file or folder"


@lru_cache(maxsize=1)
def _preference(source: str, device: str) -> Clip:
    return Clip(source, device, "--metric preference=FOLDER")

"""CLIP (Radford et al., ICML 2021): embeddings of images and of prompts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from tuner.errors import Unavailable
from tuner.quality.images import Images

BATCH = 64


class Clip:
    """A CLIP model with its processor, loaded from a folder or a hub id. It is on the CPU except while it runs.

    Raises Unavailable if it cannot be loaded, naming `option`, by which the user gives a local copy.
    """

    def __init__(self, source: str, device: str, option: str = "--scorer FOLDER") -> None:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

        try:
            model, loaded = CLIPModel.from_pretrained(
                source, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
            missing = sorted(loaded["missing_keys"])
            if missing:  # transformers would initialize them at random
                raise ValueError(f"{len(missing)} weights are missing: {', '.join(missing[:3])}")
            self.model = model.eval()
            self.processor = CLIPImageProcessorPil.from_pretrained(source)
            self.tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            lines = (line.strip() for line in str(error).splitlines())
            reason = textwrap.shorten(next(filter(None, lines), type(error).__name__), 120, placeholder=" ...")
            raise Unavailable(
                f"the CLIP model {source} cannot be loaded ({reason}); point {option} to a local folder of a CLIPModel "
                "with safetensors; psnr, ssim and ms_ssim (--quality NAME) need no weights"
            ) from None
        self.source = source
        self.device = device

    def embed_images(self, images: Images) -> Any:
        """Return unit vectors (stills, width), float32. They are computed once per set of images."""
        if self.source not in images.features:
            images.features[self.source] = self._embed(images.pil_images)
        return images.features[self.source]

    def embed_prompts(self, prompts: Sequence[str]) -> Any:
        """Return unit vectors (prompts, width), float32."""
        import torch

        model = self.model.to(self.device)
        with torch.inference_mode():
            tokens = self.tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt").to(self.device)
            rows = normalized(model.text_projection(model.text_model(**tokens).pooler_output))
        self.model.to("cpu")
        return rows

    def scale(self) -> float:
        """Return the logit scale, about 100."""
        return float(self.model.logit_scale.detach().exp())

    def _embed(self, images: Sequence[Any]) -> Any:
        import numpy as np
        import torch

        model = self.model.to(self.device)
        rows = []
        try:
            with torch.inference_mode():
                for start in range(0, len(images), BATCH):
                    part = self.processor(images=list(images[start : start + BATCH]), return_tensors="pt")
                    pooled = model.vision_model(pixel_values=part["pixel_values"].to(self.device)).pooler_output
                    rows.append(normalized(model.visual_projection(pooled)))
        finally:
            self.model.to("cpu")
        return np.concatenate(rows)


def normalized(rows: Any) -> Any:
    """Return rows of length 1, as float32 on the CPU."""
    return (rows / rows.norm(dim=-1, keepdim=True)).float().cpu().numpy()

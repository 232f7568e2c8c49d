"""CLIP score: how well a picture shows its prompt, as 100 times the cosine of their CLIP embeddings.

Hessel et al., CLIPScore, EMNLP 2021, without their clipping at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuner.errors import Unavailable


class ClipScorer:
    """A CLIP model with its processor, from a folder or a hub id. It rests on the CPU between two scorings."""

    def __init__(self, source: str, device: str) -> None:
        import torch
        from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

        try:
            self.model = CLIPModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32).eval()
            self.images = CLIPImageProcessorPil.from_pretrained(source)
            self.tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise Unavailable(
                f"the scorer {source} cannot be loaded ({reason}); point --scorer to a local folder of a CLIPModel"
            ) from None
        self.device = device

    def scores(self, pictures: Sequence[Any], prompts: Sequence[str]) -> tuple[float, ...]:
        """One score for each PIL picture and its prompt, -100 to 100, higher is better."""
        import torch

        model = self.model.to(self.device)
        with torch.inference_mode():
            pixels = self.images(images=list(pictures), return_tensors="pt")["pixel_values"]
            text = self.tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt")
            output = model(pixel_values=pixels.to(self.device), **text.to(self.device))
            cosine = (output.image_embeds * output.text_embeds).sum(dim=-1)
        self.model.to("cpu")
        return tuple(float(value) * 100 for value in cosine)

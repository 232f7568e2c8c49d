"""A CLIP scorer with random weights, small enough for a unit test or as large as real ones."""

from __future__ import annotations

from pathlib import Path


def write_tiny_clip(folder: Path) -> None:
    write_clip(folder, hidden=(32, 32), layers=(1, 1), heads=(2, 2), image_size=32, patch_size=8)


def write_clip(
    folder: Path, hidden: tuple[int, int], layers: tuple[int, int], heads: tuple[int, int], image_size: int,
    patch_size: int,
) -> None:  # fmt: skip
    """A CLIP model of random weights; sizes of its text network, then of its vision network."""
    import torch
    from pipelines import clip_tokenizer
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    torch.manual_seed(0)
    clip = clip_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(clip), hidden_size=hidden[0], intermediate_size=4 * hidden[0], num_hidden_layers=layers[0],
        num_attention_heads=heads[0], bos_token_id=clip.bos_token_id, eos_token_id=clip.eos_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=hidden[1], intermediate_size=4 * hidden[1], num_hidden_layers=layers[1],
        num_attention_heads=heads[1], image_size=image_size, patch_size=patch_size,
    )  # fmt: skip
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=hidden[0])
    CLIPModel(config).save_pretrained(folder)
    clip.save_pretrained(folder)
    size = {"height": image_size, "width": image_size}
    CLIPImageProcessorPil(size=size, crop_size=size).save_pretrained(folder)

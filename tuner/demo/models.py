"""The networks, untrained, and how they are stored."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from tuner.demo.scenes import SIDE
from tuner.demo.tokenization import LENGTH, clip_tokenizer, t5_tokenizer

LATENT = 8  # channels of a latent; 64x64 pixels become 16x16 of them, packed 2x2 into 64 tokens


def new_vae() -> AutoencoderKL:
    """Make an autoencoder by a factor of 4 with few channels where the image is large."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 72),
        layers_per_block=1,
        latent_channels=LATENT,
        norm_num_groups=8,
        sample_size=SIDE,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def new_transformer() -> FluxTransformer2DModel:
    """FLUX with one dual-stream block and four single-stream blocks, each the identity at first."""
    model = FluxTransformer2DModel(
        in_channels=4 * LATENT,
        num_layers=1,
        num_single_layers=4,
        attention_head_dim=64,
        num_attention_heads=4,
        joint_attention_dim=128,
        pooled_projection_dim=128,
        guidance_embeds=False,
        axes_dims_rope=(16, 24, 24),
    )
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and (name == "proj_out" or ".norm" in f".{name}"):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return model


def new_text_encoder() -> CLIPTextModel:
    """Make the encoder of the whole caption into one vector of 128."""
    return CLIPTextModel(CLIPTextConfig(**_clip_text(layers=2)))


def new_text_encoder_2() -> T5EncoderModel:
    """Make the encoder of the caption word by word into vectors of 128."""
    tokenizer = t5_tokenizer()
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=128,
            d_kv=32,
            d_ff=256,
            num_layers=3,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def new_scorer() -> CLIPModel:
    """CLIP with 64 patches of 8x8 pixels."""
    vision = {
        "image_size": SIDE,
        "patch_size": 8,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "projection_dim": 128,
    }
    return CLIPModel(CLIPConfig(text_config=_clip_text(layers=2), vision_config=vision, projection_dim=128))


def parameters(model: torch.nn.Module) -> int:
    """Count the numbers that a model holds."""
    return sum(parameter.numel() for parameter in model.parameters())


def declare_float32(folder: Path) -> None:
    """Make a plain load give float32, although the files hold half precision."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        for section in (config, *(part for part in config.values() if isinstance(part, dict))):
            if "dtype" in section:
                section["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2) + "\n")


def _clip_text(layers: int) -> dict[str, int]:
    tokenizer = clip_tokenizer()
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": LENGTH,
        "projection_dim": 128,
        "bos_token_id": int(tokenizer.bos_token_id),
        "eos_token_id": int(tokenizer.eos_token_id),
        "pad_token_id": int(tokenizer.pad_token_id),
    }

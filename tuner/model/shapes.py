"""Sizes in a component's configuration, and the shapes of its weights that follow from them.

A few tensors of well-known classes are compared, where no layout in use differs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tuner.errors import BadInput
from tuner.model.safetensors_file import FLOATS, Tensor

MAX_SIZE = 1 << 22
MAX_LAYERS = 10_000
COUNTS = {"num_layers", "num_single_layers", "num_hidden_layers", "n_layers", "n_refiner_layers", "num_refiner_layers"}
SIZES = {
    "num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "patch_size", "sample_size",
    "hidden_size", "intermediate_size", "vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "latent_channels",
    "z_dim", "base_dim", "block_out_channels", "joint_attention_dim", "pooled_projection_dim", "cross_attention_dim",
    "caption_channels", "norm_num_groups", "layers_per_block", "max_position_embeddings", "num_train_timesteps",
    "ffn_dim", "text_dim", "freq_dim", "dim", "n_heads", "cap_feat_dim", "pos_embed_max_size", "axes_dims_rope",
}  # fmt: skip
"""Settings that are whole numbers above 0, lists of them, or null."""

BLOCKS: Mapping[str, Mapping[str, str]] = {
    "FluxTransformer2DModel": {"transformer_blocks": "num_layers", "single_transformer_blocks": "num_single_layers"},
    "Flux2Transformer2DModel": {"transformer_blocks": "num_layers", "single_transformer_blocks": "num_single_layers"},
    "SD3Transformer2DModel": {"transformer_blocks": "num_layers"},
    "QwenImageTransformer2DModel": {"transformer_blocks": "num_layers"},
    "SanaTransformer2DModel": {"transformer_blocks": "num_layers"},
    "PixArtTransformer2DModel": {"transformer_blocks": "num_layers"},
    "WanTransformer3DModel": {"blocks": "num_layers"},
    "ZImageTransformer2DModel": {"layers": "n_layers"},
}
"""Lists of blocks at the top of a denoiser, and the setting that counts them."""

CONTEXT = ("context_embedder.weight", 1, "joint_attention_dim")

DIMENSIONS: Mapping[str, tuple[tuple[str, int, str], ...]] = {
    "FluxTransformer2DModel": (("x_embedder.weight", 1, "in_channels"), CONTEXT),
    "Flux2Transformer2DModel": (("x_embedder.weight", 1, "in_channels"), CONTEXT),
    "SD3Transformer2DModel": (("pos_embed.proj.weight", 1, "in_channels"), CONTEXT),
    "QwenImageTransformer2DModel": (("img_in.weight", 1, "in_channels"), ("txt_in.weight", 1, "joint_attention_dim")),
    "SanaTransformer2DModel": (("patch_embed.proj.weight", 1, "in_channels"),),
    "PixArtTransformer2DModel": (("pos_embed.proj.weight", 1, "in_channels"),),
    "WanTransformer3DModel": (("patch_embedding.weight", 1, "in_channels"),),
    "UNet2DConditionModel": (("conv_in.weight", 1, "in_channels"), ("conv_in.weight", 0, "block_out_channels")),
    "AutoencoderKL": (("encoder.conv_in.weight", 1, "in_channels"), ("decoder.conv_in.weight", 1, "latent_channels")),
    "CLIPTextModel": (
        ("embeddings.token_embedding.weight", 0, "vocab_size"), ("embeddings.token_embedding.weight", 1, "hidden_size"),
        ("embeddings.position_embedding.weight", 0, "max_position_embeddings"),
    ),
    "T5EncoderModel": (("shared.weight", 0, "vocab_size"), ("shared.weight", 1, "d_model")),
    "UMT5EncoderModel": (("shared.weight", 0, "vocab_size"), ("shared.weight", 1, "d_model")),
}  # fmt: skip
"""What the name of a tensor ends with, one of its dimensions, and the setting that is equal to it."""

SAME = {"CLIPTextModelWithProjection": "CLIPTextModel"}


def check_sizes(file: Path, config: Mapping[str, Any]) -> None:
    """Check the sizes of a configuration. Raises BadInput with the file and the field."""
    for name, value in config.items():
        least, largest = (0, MAX_LAYERS) if name in COUNTS else (1, MAX_SIZE)
        for number in _leaves(value):
            if isinstance(number, float) and math.isnan(number):
                raise BadInput(f"{file}: {name[:80]}: NaN is not a setting; download the file again")
            if name in COUNTS | SIZES and not (type(number) is int and least <= number <= largest):
                shown = str(number)[:40]
                raise BadInput(f"{file}: {name}: {shown} is not a whole number from {least} to {largest}")


def check_shapes(where: Path, class_name: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Compare the weights of a component with its configuration. Raises BadInput with the tensor and the field."""
    for blocks, field in BLOCKS.get(class_name, {}).items():
        numbers = {int(match[1]) for match in map(re.compile(rf"{blocks}\.(\d+)\.").match, tensors) if match}
        stated = config.get(field)
        if numbers and isinstance(stated, int) and numbers != set(range(stated)):
            raise BadInput(f"{where}: {blocks}: the weights of {len(numbers)} blocks; config.json: {field}: {stated}")
    for ending, axis, field in DIMENSIONS.get(SAME.get(class_name, class_name), ()):
        stated = config.get(field)
        stated = stated[0] if isinstance(stated, list) and stated else stated
        for name, tensor in tensors.items():
            is_it = name == ending or (name.endswith(f".{ending}") and ending.startswith("embeddings"))
            if (
                is_it
                and isinstance(stated, int)
                and tensor.dtype in FLOATS
                and tensor.shape[axis : axis + 1] != (stated,)
            ):
                shape = "x".join(map(str, tensor.shape))
                raise BadInput(f"{where}: {name[:80]}: its shape is {shape}; config.json: {field}: {stated}")


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the values in nested lists, without nulls."""
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif value is not None:
        yield value

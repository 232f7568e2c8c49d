"""Sizes in a component's configuration, and the shapes of its weights that follow from them.

A few tensors of well-known classes are compared, where no layout in use differs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tuner.errors import BadInput
from tuner.model.declared_shapes import attributes, declared_sizes, default_of
from tuner.model.json_file import shown
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
    "num_key_value_heads", "head_dim", "relative_attention_num_buckets", "transformer_layers_per_block",
}  # fmt: skip
"""Settings that are whole numbers above 0, lists of them, or null."""

ZERO_TOO = {
    "cross_attention_dim", "pooled_projection_dim", "caption_channels", "layers_per_block", "text_dim",
    "axes_dims_rope", "transformer_layers_per_block",
}  # fmt: skip
"""Sizes of parts that a model may leave out."""

WHOLE_FRACTIONS = {"sample_size"}
"""Sizes that are only computed with, so that 128.0 does for 128."""

NESTED = ("text_config", "vision_config")

DIMENSIONS: Mapping[str, tuple[tuple[str, int, str], ...]] = {
    "SD3Transformer2DModel": (("pos_embed.proj.weight", 1, "in_channels"),),
    "SanaTransformer2DModel": (
        ("patch_embed.proj.weight", 1, "in_channels"), ("caption_projection.linear_1.weight", 1, "caption_channels"),
    ),
    "PixArtTransformer2DModel": (
        ("pos_embed.proj.weight", 1, "in_channels"), ("caption_projection.linear_1.weight", 1, "caption_channels"),
    ),
    "LTXVideoTransformer3DModel": (("caption_projection.linear_1.weight", 1, "caption_channels"),),
    "AutoencoderKL": (
        ("encoder.conv_in.weight", 1, "in_channels"), ("decoder.conv_in.weight", 1, "latent_channels"),
        ("encoder.conv_in.weight", 0, "block_out_channels"), ("decoder.conv_out.weight", 0, "out_channels"),
    ),
    "CLIPTextModelWithProjection": (("text_projection.weight", 0, "projection_dim"),),
    "AutoencoderKLWan": (("decoder.conv_in.weight", 1, "z_dim"),),
    "AutoencoderKLQwenImage": (("decoder.conv_in.weight", 1, "z_dim"),),
    "AutoencoderDC": (("decoder.conv_in.conv.weight", 1, "latent_channels"),),
}  # fmt: skip
"""Weights of layers inside other classes than the component's own: one of their dimensions, and its setting."""

ESSENTIAL = {
    "SD3Transformer2DModel": ("pos_embed.proj.weight", 4), "PixArtTransformer2DModel": ("pos_embed.proj.weight", 4),
    "SanaTransformer2DModel": ("patch_embed.proj.weight", 4), "AutoencoderKL": ("decoder.conv_in.weight", 4),
    "AutoencoderKLWan": ("decoder.conv_in.weight", 5), "AutoencoderKLQwenImage": ("decoder.conv_in.weight", 5),
}  # fmt: skip
"""A weight that a class always has, of a layer inside another class, and its number of dimensions."""

SWITCHED = {
    "FluxTransformer2DModel": ("guidance_embeds", "time_text_embed.guidance_embedder.linear_1.weight"),
}
"""A setting, and the weight that a class has if it is true."""

WHOLE_TYPES = {"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL"}

TEXT_DIMENSIONS = (
    ("embeddings.token_embedding.weight", 0, "vocab_size"), ("embeddings.token_embedding.weight", 1, "hidden_size"),
    ("embeddings.position_embedding.weight", 0, "max_position_embeddings"),
    ("embed_tokens.weight", 0, "vocab_size"), ("embed_tokens.weight", 1, "hidden_size"),
    ("mlp.fc1.weight", 0, "intermediate_size"), ("DenseReluDense.wo.weight", 1, "d_ff"),
    ("relative_attention_bias.weight", 0, "relative_attention_num_buckets"),
    ("embed_tokens.weight", 1, "d_model"), ("shared.weight", 0, "vocab_size"), ("shared.weight", 1, "d_model"),
)  # fmt: skip
"""What the names of text encoders' weights end with, one of their dimensions, and its setting."""

OF_VISION = re.compile(r"vision|visual|image")

TEXT_LAYERS = (
    (re.compile(r"(?:^|\.)encoder\.block\.(\d+)\."), "num_layers"),
    (re.compile(r"^(?:text_model\.)?encoder\.layers\.(\d+)\."), "num_hidden_layers"),
    (re.compile(r"^(?:model\.)?(?:language_model\.)?layers\.(\d+)\."), "num_hidden_layers"),
)
"""The layers of text encoders, and the setting that counts them. More than are used may be there."""

_T5 = (*(f"layer.0.SelfAttention.{name}.weight" for name in "qkvo"), "layer.1.DenseReluDense.wo.weight")
_CLIP = (*(f"self_attn.{name}_proj.weight" for name in ("q", "k", "v", "out")), "mlp.fc1.weight", "mlp.fc2.weight")
TEXT_WEIGHTS = {
    "clip_text_model": ("layers", _CLIP, "num_hidden_layers"),
    "t5": ("block", _T5, "num_layers"),
    "umt5": ("block", _T5, "num_layers"),
}
"""By the `model_type` of a text encoder: the name of its layers, what each has, the setting that counts them."""

PROJECTIONS = {
    "CLIPTextModelWithProjection": "text_projection.weight",
    "CLIPVisionModelWithProjection": "visual_projection.weight",
}
"""The weight that a class has beside those of the class without a projection."""


def check_sizes(file: Path, config: Mapping[str, Any], prefix: str = "") -> None:
    """Check the sizes of a configuration. Raises BadInput with the file and the field."""
    for name, value in config.items():
        if name in NESTED and value is not None:
            if not isinstance(value, dict):
                raise BadInput(f"{file}: {prefix}{name}: {str(value)[:40]} is not an object of settings")
            check_sizes(file, value, f"{prefix}{name}.")
        least, largest = (0, MAX_LAYERS) if name in COUNTS else (int(name not in ZERO_TOO), MAX_SIZE)
        for number in _leaves(value):
            if isinstance(number, float) and math.isnan(number):
                raise BadInput(f"{file}: {prefix}{shown(name)}: NaN is not a setting; download the file again")
            is_whole = type(number) is int or (name in WHOLE_FRACTIONS and number in range(MAX_SIZE))
            if name in COUNTS | SIZES and not (is_whole and least <= number <= largest):
                wanted = f"a whole number from {least} to {largest}"
                raise BadInput(f"{file}: {prefix}{name}: {repr(number)[:40]} is not {wanted}")


def check_shapes(where: Path, class_name: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Compare the weights of a component with its configuration. Raises BadInput with the tensor and the field."""
    _check_essential(where, class_name, config, tensors)
    for declared in declared_sizes(class_name, config):
        stated = ", ".join(f"{field}: {config.get(field)}" for field in declared.settings)
        if declared.axis is None:
            numbers = {int(found[1]) for found in _matches(rf"^{re.escape(declared.name)}\.(\d+)\.", tensors)}
            if (numbers or declared.is_certain) and numbers != set(range(declared.size)):
                raise BadInput(f"{where}: {declared.name}: the weights of {len(numbers)} blocks; config.json: {stated}")
        elif declared.name in tensors:
            _compare(where, declared.name, tensors[declared.name], declared.axis, declared.size, stated)
        elif declared.is_certain:
            raise BadInput(f"{where}: {declared.name}: {class_name} has this weight, it is missing; download it again")
    for name, axis, field in DIMENSIONS.get(class_name, ()):
        size = config.get(field, default_of(class_name, field))
        if name in tensors:
            _compare(where, name, tensors[name], axis, _first(size), f"{field}: {size}")
    _check_text(where, config.get("text_config") or config, tensors)


def _check_essential(where: Path, class_name: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Check weights that a class always has, or has by one of its settings."""
    own = attributes(class_name)
    first = next(iter(tensors))
    if own and not any(name.partition(".")[0] in own for name in tensors):
        raise BadInput(f"{where}: {shown(first)}: no weight of {class_name}: these are of another model or layout")
    essential, rank = ESSENTIAL.get(class_name, (PROJECTIONS.get(class_name), 0))
    setting, switched = SWITCHED.get(class_name, ("", None))
    for name in (essential, switched if config.get(setting) in (True, "true") else None):
        if name is not None and name not in tensors:
            stated = f"; config.json: {setting}: {config.get(setting)}" if name == switched else ""
            raise BadInput(f"{where}: {name}: {class_name} has this weight, it is missing{stated}; download it again")
    if rank and tensors[str(essential)].dtype in FLOATS and len(tensors[str(essential)].shape) != rank:
        raise BadInput(f"{where}: {essential}: {class_name} has {rank} dimensions here: this is of another model")


def _check_text(where: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Compare the embeddings and the number of layers of a text encoder, if it is one."""
    if not isinstance(config.get("vocab_size"), int):
        return
    for ending, axis, field in TEXT_DIMENSIONS:
        for name in (name for name in tensors if f".{name}".endswith(f".{ending}") and not OF_VISION.search(name)):
            _compare(where, name, tensors[name], axis, config.get(field), f"{field}: {config.get(field)}")
    for pattern, field in TEXT_LAYERS:
        numbers = {int(found[1]) for found in _matches(pattern, tensors)}
        count = config.get(field)
        if numbers and isinstance(count, int) and max(numbers) + 1 < count:
            raise BadInput(f"{where}: weights of {max(numbers) + 1} layers only; config.json: {field}: {count}")
    _check_text_weights(where, config, tensors)


def _check_text_weights(where: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise BadInput if a layer of CLIP or T5 lacks a weight: transformers would draw it at random."""
    stack, weights, field = TEXT_WEIGHTS.get(str(config.get("model_type")), ("", (), ""))
    count = config.get(field)
    for layer in range(count if isinstance(count, int) else 0):
        for weight in weights:
            ending = f"{stack}.{layer}.{weight}"
            if not any(f".{name}".endswith(f".{ending}") for name in tensors):
                raise BadInput(f"{where}: it has no weight {ending}; config.json: {field}: {count}; download it again")


def _compare(where: Path, name: str, tensor: Tensor, axis: int, size: object, stated: str) -> None:
    """Raise BadInput if a dimension of a tensor is not of this size. A size that is unknown is not compared."""
    if tensor.dtype in WHOLE_TYPES:
        raise BadInput(
            f"{where}: {shown(name)}: {tensor.dtype}: whole numbers, and config.json has no quantization_config"
        )
    is_known = isinstance(size, int) and tensor.dtype in FLOATS and len(tensor.shape) > axis
    if is_known and tensor.shape[axis] != size:
        shape = "x".join(map(str, tensor.shape))
        raise BadInput(f"{where}: {shown(name)}: its shape is {shape}; config.json: {stated}")


def _matches(pattern: str | re.Pattern[str], names: Iterable[str]) -> Iterator[re.Match[str]]:
    return (found for found in map(re.compile(pattern).search, names) if found)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) and value else value


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the values in nested lists, without nulls."""
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif value is not None:
        yield value

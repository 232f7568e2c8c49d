"""Settings of one component that must agree with each other: lists for the same blocks, groups of channels, axes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.errors import BadInput

_PLAIN_BLOCKS = ("up_block_types", "block_out_channels")
BY_BLOCK: Mapping[str, tuple[str, ...]] = {
    "UNet2DModel": _PLAIN_BLOCKS, "UNet3DConditionModel": _PLAIN_BLOCKS, "UNetMotionModel": _PLAIN_BLOCKS,
    "AutoencoderKL": _PLAIN_BLOCKS, "AutoencoderKLFlux2": _PLAIN_BLOCKS,
    "UNet2DConditionModel": (
        *_PLAIN_BLOCKS, "only_cross_attention", "num_attention_heads", "attention_head_dim", "cross_attention_dim",
        "layers_per_block",
    ),
}  # fmt: skip
"""Settings that have a value for each of `down_block_types`, by class. Most may be one value for all blocks instead."""

GROUPED = {"UNet2DModel", "UNet2DConditionModel", "AutoencoderKL", "AutoencoderKLFlux2"}
"""Classes that divide all their channels into `norm_num_groups`."""

AXES = {
    "FluxTransformer2DModel": "axes_dims_rope", "Flux2Transformer2DModel": "axes_dims_rope",
    "ChromaTransformer2DModel": "axes_dims_rope", "QwenImageTransformer2DModel": "axes_dims_rope",
    "OvisImageTransformer2DModel": "axes_dims_rope", "BriaTransformer2DModel": "axes_dims_rope",
    "HunyuanVideoTransformer3DModel": "rope_axes_dim",
}  # fmt: skip
"""How a head's dimensions are shared between the axes of a position."""

DIVIDED = {"clip_text_model", "clip_vision_model", "bert"}
"""Models of transformers, by `model_type`, whose heads divide their width."""

WITH_STAGES = {"AutoencoderKLWan", "AutoencoderKLQwenImage"}


def check_agreeing(file: Path, class_name: str, config: Mapping[str, Any]) -> None:
    """Check that the settings of a component agree. Raises BadInput with the file and the fields."""
    for check in (_check_blocks, _check_groups, _check_axes, _check_stages):
        check(file, class_name, config)
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if str(config.get("model_type")) in DIVIDED and isinstance(width, int) and isinstance(heads, int) and width % heads:
        raise BadInput(f"{file}: num_attention_heads: {heads} does not divide hidden_size: {width}")


def _check_blocks(file: Path, class_name: str, config: Mapping[str, Any]) -> None:
    blocks = config.get("down_block_types")
    for name in BY_BLOCK.get(class_name, ()):
        value = config.get(name)
        if isinstance(blocks, list) and isinstance(value, list) and len(value) != len(blocks):
            raise BadInput(f"{file}: {name}: {len(value)} values; down_block_types has {len(blocks)}")


def _check_groups(file: Path, class_name: str, config: Mapping[str, Any]) -> None:
    groups = config.get("norm_num_groups")
    if class_name in GROUPED and isinstance(groups, int):
        uneven = [channels for channels in _whole(config, "block_out_channels") if channels % groups]
        if uneven:
            raise BadInput(f"{file}: norm_num_groups: {groups} does not divide block_out_channels: {uneven[0]}")


def _check_axes(file: Path, class_name: str, config: Mapping[str, Any]) -> None:
    name, dimensions = AXES.get(class_name, ""), config.get("attention_head_dim")
    axes = _whole(config, name)
    if axes and isinstance(dimensions, int) and sum(axes) != dimensions:
        raise BadInput(f"{file}: {name}: {axes} is {sum(axes)} in all; attention_head_dim: {dimensions}")


def _check_stages(file: Path, class_name: str, config: Mapping[str, Any]) -> None:
    scales, sampled = config.get("dim_mult"), config.get("temperal_downsample")
    is_given = class_name in WITH_STAGES and isinstance(scales, list) and isinstance(sampled, list)
    if is_given and len(sampled or ()) < len(scales or ()) - 1:
        raise BadInput(f"{file}: temperal_downsample: {sampled} is too short for dim_mult: {scales}")


def _whole(config: Mapping[str, Any], name: str) -> list[int]:
    """Return a list of whole numbers, [] if it is something else."""
    value = config.get(name)
    return value if isinstance(value, list) and all(type(item) is int for item in value) else []

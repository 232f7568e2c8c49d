"""Checkpoints of SD 1.5 in the original layout, as ComfyUI has them: the inverse of diffusers' conversion."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(name: str, layers: int) -> str:
    """The original name of a layer of the UNet, whose blocks have `layers` resnets."""

    def place(block: str, layer: str) -> int:
        return (layers + 1) * int(block) + int(layer)

    def inputs(block: str, layer: str) -> str:
        return f"input_blocks.{place(block, layer) + 1}"

    rules: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
        (
            r"down_blocks\.(\d+)\.resnets\.(\d+)\.(\w+)",
            lambda m: f"{inputs(m[1], m[2])}.0.{RESNET[m[3]]}",
        ),
        (r"down_blocks\.(\d+)\.attentions\.(\d+)\.(.*)", lambda m: f"{inputs(m[1], m[2])}.1.{m[3]}"),
        (r"down_blocks\.(\d+)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{place(m[1], '0') + layers + 1}.0.op"),
        (r"mid_block\.resnets\.(\d)\.(\w+)", lambda m: f"middle_block.{2 * int(m[1])}.{RESNET[m[2]]}"),
        (r"mid_block\.attentions\.0\.(.*)", lambda m: f"middle_block.1.{m[1]}"),
        (r"up_blocks\.(\d+)\.resnets\.(\d+)\.(\w+)", lambda m: f"output_blocks.{place(m[1], m[2])}.0.{RESNET[m[3]]}"),
        (r"up_blocks\.(\d+)\.attentions\.(\d+)\.(.*)", lambda m: f"output_blocks.{place(m[1], m[2])}.1.{m[3]}"),
        (r"up_blocks\.(\d+)\.upsamplers\.0\.conv", lambda m: f"output_blocks.{place(m[1], '0') + layers}.1.conv"),
    )
    for pattern, original in rules:
        if match := re.fullmatch(pattern, name):
            return original(match)
    return UNET[name]


def vae_name(name: str, blocks: int) -> str:
    """The original name of a weight of the VAE, whose decoder counts its blocks backwards."""
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{blocks - 1 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    for ours, original in ATTENTION.items():
        name = name.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{original}.")
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def unet(pipe: Any) -> dict[str, Any]:
    layers = int(pipe.unet.config.layers_per_block)
    weights = ((*name.rpartition("."), value) for name, value in pipe.unet.state_dict().items())
    return {f"model.diffusion_model.{unet_name(head, layers)}.{kind}": value for head, _, kind, value in weights}


def vae(pipe: Any) -> dict[str, Any]:
    blocks, renamed = len(pipe.vae.config.block_out_channels), {}
    for name, value in pipe.vae.state_dict().items():
        is_convolution = "attentions" in name and value.ndim == 2  # a product of features there, one of pixels here
        renamed[f"first_stage_model.{vae_name(name, blocks)}"] = value[:, :, None, None] if is_convolution else value
    return renamed


def text_encoder(pipe: Any) -> dict[str, Any]:
    names = {name.removeprefix("text_model."): value for name, value in pipe.text_encoder.state_dict().items()}
    return {f"cond_stage_model.transformer.text_model.{name}": value for name, value in names.items()}


def save(weights: Mapping[str, Any], file: Path) -> Path:
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in weights.items()}, file)
    return file

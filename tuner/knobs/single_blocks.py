"""Products of single-stream blocks: those of one input in one, that of two inputs in two."""

from __future__ import annotations

import types
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tuner.knobs.base import Knob, NoEffect, denoisers
from tuner.knobs.code import Code
from tuner.model.diffusers_source import class_source
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture

BLOCKS = ("FluxSingleTransformerBlock", "ChromaSingleTransformerBlock")
"""The classes of single-stream blocks for which there is a forward here."""


class SingleBlockKnob(Knob):
    """A knob that replaces products of the denoiser's single-stream blocks."""

    choices = (False, True)
    part = ""
    """The layer that a block has then."""

    @abstractmethod
    def change(self, block: Any) -> None:
        """Replace the products of a block."""

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if not value:
            return None
        for denoiser in architecture.denoisers:
            source = class_source("models", denoiser.class_name)
            if not any(f"class {name}(" in source for name in BLOCKS):
                return f"{architecture.pipeline_class} has none of the single-stream blocks {' and '.join(BLOCKS)}"
        return None

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if values.get(self.name) and values.get("quantization.gguf_file", "none") != "none":
            return "packed weights cannot be divided or fused"
        return None

    def is_set(self, pipe: Any, values: Mapping[str, Value]) -> bool:
        return any(hasattr(block, self.part) for block in single_blocks(pipe))

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        blocks = list(single_blocks(pipe))
        if not blocks:
            raise NoEffect("the denoiser has no single-stream blocks")
        for block in blocks:
            self.change(block)
        return f"{len(blocks)} single-stream blocks changed"


class FuseInput(SingleBlockKnob):
    """One product for queries, keys, values and the MLP's first layer of a single-stream block: their input is one."""

    name = "single_blocks.fuse_input"
    order = 12  # after fuse_qkv, before the new layers are quantized
    part = "qkv_mlp"

    def change(self, block: Any) -> None:
        fuse_input(block)

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return Code(("for block in single_blocks(pipe):", "    fuse_input(block)"), (), (single_blocks, fuse_input))


class SplitOutput(SingleBlockKnob):
    """The last product of a single-stream block as two, of attention and MLP, which are then not concatenated."""

    name = "single_blocks.split_output"
    order = 13
    part = "out_mlp"

    def change(self, block: Any) -> None:
        split_output(block)

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return Code(("for block in single_blocks(pipe):", "    split_output(block)"), (), (single_blocks, split_output))


def single_blocks(pipe: Any) -> Iterator[Any]:
    """Yield the single-stream blocks of the denoisers."""
    for denoiser in denoisers(pipe):
        yield from (module for module in denoiser.modules() if type(module).__name__ in BLOCKS)


def fuse_input(block: Any) -> None:
    """Compute queries, keys, values and the MLP's first layer in one product. Their own weights are given up."""
    import torch

    attention = block.attn
    parts = [attention.to_q, attention.to_k, attention.to_v, block.proj_mlp]
    block.qkv_mlp = joined(parts)
    block.widths = (sum(part.out_features for part in parts[:3]), block.proj_mlp.out_features)
    for owner, name in ((attention, "to_q"), (attention, "to_k"), (attention, "to_v"), (block, "proj_mlp")):
        delattr(owner, name)
    attention.to_qkv = torch.nn.Identity()
    attention.fused_projections = True
    use_own_forward(block)


def split_output(block: Any) -> None:
    """Multiply attention and MLP by their own columns of the last product's weight."""
    whole = block.proj_out
    mlp = block.mlp_hidden_dim
    block.out_attn = columns_of(whole, slice(None, whole.in_features - mlp), has_bias=True)
    block.out_mlp = columns_of(whole, slice(whole.in_features - mlp, None), has_bias=False)
    del block.proj_out
    use_own_forward(block)


def joined(layers: list[Any]) -> Any:
    """Return one linear layer that has the outputs of several, one after the other."""
    import torch

    weight = torch.cat([layer.weight.detach() for layer in layers])
    bias = None if layers[0].bias is None else torch.cat([layer.bias.detach() for layer in layers])
    return linear(weight, bias)


def columns_of(layer: Any, columns: slice, *, has_bias: bool) -> Any:
    """Return a linear layer that has some columns of another's weight."""
    return linear(layer.weight.detach()[:, columns].contiguous(), layer.bias.detach() if has_bias else None)


def linear(weight: Any, bias: Any) -> Any:
    """Return a linear layer with this weight and bias."""
    import torch

    with torch.device("meta"):
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    return layer.eval()


def forward_of(class_name: str) -> Callable[..., Any]:
    """Return what replaces the forward of a class of single-stream blocks."""
    forwards: dict[str, Callable[..., Any]] = {
        "FluxSingleTransformerBlock": flux_forward,
        "ChromaSingleTransformerBlock": chroma_forward,
    }
    return forwards[class_name]


def use_own_forward(block: Any) -> None:
    """Give a block a forward that reads the layers that it has now."""
    block.own_forward = block.forward = types.MethodType(forward_of(type(block).__name__), block)


def single_stream(block: Any, hidden_states: Any, temb: Any, attention: dict[str, Any]) -> Any:
    """Compute a single-stream block with the layers that it has."""
    import torch

    normed, gate = block.norm(hidden_states, emb=temb)
    if hasattr(block, "qkv_mlp"):
        normed, mlp = block.qkv_mlp(normed).split(block.widths, dim=-1)
    else:
        mlp = block.proj_mlp(normed)
    mlp = block.act_mlp(mlp)
    attended = block.attn(hidden_states=normed, **attention)
    if hasattr(block, "out_mlp"):
        output = block.out_attn(attended) + block.out_mlp(mlp)
    else:
        output = block.proj_out(torch.cat([attended, mlp], dim=2))
    hidden_states = hidden_states + gate.unsqueeze(1) * output
    return hidden_states.clip(-65504, 65504) if hidden_states.dtype == torch.float16 else hidden_states


def flux_forward(
    block: Any, hidden_states: Any, encoder_hidden_states: Any, temb: Any, image_rotary_emb: Any = None,
    joint_attention_kwargs: dict[str, Any] | None = None,
) -> tuple[Any, Any]:  # fmt: skip
    """Compute a block of FLUX.1, which takes and gives text and image apart."""
    import torch

    length = encoder_hidden_states.shape[1]
    attention = {"image_rotary_emb": image_rotary_emb, **(joint_attention_kwargs or {})}
    hidden_states = torch.cat([encoder_hidden_states, hidden_states], dim=1)
    hidden_states = single_stream(block, hidden_states, temb, attention)
    return hidden_states[:, :length], hidden_states[:, length:]


def chroma_forward(
    block: Any, hidden_states: Any, temb: Any, image_rotary_emb: Any = None, attention_mask: Any = None,
    joint_attention_kwargs: dict[str, Any] | None = None,
) -> Any:  # fmt: skip
    """Compute a block of Chroma, which takes text and image as one and masks the text's padding."""
    if attention_mask is not None:
        attention_mask = attention_mask[:, None, None, :] * attention_mask[:, None, :, None]
    attention = {"image_rotary_emb": image_rotary_emb, "attention_mask": attention_mask}
    return single_stream(block, hidden_states, temb, {**attention, **(joint_attention_kwargs or {})})

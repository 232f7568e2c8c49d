"""One matrix product for queries, keys and values instead of three."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from tuner.errors import Unavailable
from tuner.knobs.base import Knob, NoEffect, denoisers, for_each_denoiser
from tuner.knobs.code import Code
from tuner.model.diffusers_source import class_source
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture, Denoiser


class FuseQkv(Knob):
    """One matrix product for queries, keys and values instead of three."""

    name = "fuse_qkv"
    choices = (False, True)
    order = 10

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if not value:
            return None
        if not all(can_fuse(denoiser.class_name) for denoiser in architecture.denoisers):
            return f"{architecture.pipeline_class}'s denoiser has no fuse_qkv_projections"
        if not all(denoiser.fuses_qkv for denoiser in architecture.denoisers):
            return f"{architecture.pipeline_class}'s attention ignores fused projections"
        if any(self.loses_norms(denoiser, architecture) for denoiser in architecture.denoisers):
            return "diffusers' fused attention leaves out this model's norms of queries and keys and breaks the image"
        return None

    def loses_norms(self, denoiser: Denoiser, architecture: Architecture) -> bool:
        """Return whether the fused processor drops norms that the denoiser has, as for Stable Diffusion 3.5."""
        has_norms = bool(architecture.settings.get(denoiser.component, {}).get("qk_norm"))
        return has_norms and "FusedJointAttnProcessor2_0" in class_source("models", denoiser.class_name)

    def is_set(self, pipe: Any, values: Mapping[str, Value]) -> bool:
        layers = [
            module for part in denoisers(pipe) for module in part.modules() if hasattr(module, "fused_projections")
        ]
        return any(layer.fused_projections is True for layer in layers)

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        fused, unfused = 0, 0
        for denoiser in denoisers(pipe):
            denoiser.fuse_qkv_projections()
            layers = [module for module in denoiser.modules() if hasattr(module, "fused_projections")]
            done = sum(is_fused(layer) for layer in layers)
            fused, unfused = fused + done, unfused + len(layers) - done
        if not fused:
            raise NoEffect("no attention layer fused its projections")
        return f"{fused} attention layers fused" + (f", {unfused} others unchanged" if unfused else "")

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return for_each_denoiser("denoiser.fuse_qkv_projections()")


def can_fuse(class_name: str) -> bool:
    """Return whether a model class has fuse_qkv_projections, its own or that of diffusers' AttentionMixin."""
    text = class_source("models", class_name)
    bases = text.partition(f"class {class_name}(")[2].partition("):")[0]
    return "AttentionMixin" in bases or "def fuse_qkv_projections" in text


def is_fused(layer: Any) -> bool:
    """Return whether an attention layer is marked as fused and its processor reads the fused weights.

    The older `Attention` layers of diffusers get a processor of a class Fused... for that. Raises Unavailable when that
    processor leaves out norms that the layer has, as for Stable Diffusion 3.5.
    """
    from diffusers.models.attention_processor import Attention

    if layer.fused_projections is not True or not isinstance(layer, Attention):
        return layer.fused_projections is True
    processor = type(layer.processor)
    if not processor.__name__.startswith("Fused"):
        return False
    if layer.norm_q is not None and "norm_q" not in inspect.getsource(processor):
        raise Unavailable(
            f"{processor.__name__} leaves out this model's norms of queries and keys and breaks the image"
        )
    return True

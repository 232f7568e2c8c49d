"""The floating-point type of weights and activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.knobs.base import Knob, NoEffect, denoisers
from tuner.knobs.code import NOTHING, Code
from tuner.knobs.conditions import capability
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture


class Dtype(Knob):
    """The floating-point type of weights and activations.

    The baseline is float32 on a CPU, bfloat16 on a GPU, and float16 on a GPU older than compute capability 8.0.
    """

    name = "precision.dtype"
    choices = ("float32", "bfloat16", "float16")
    may_change_image = True
    order = 0
    uneven_steps = False
    changes_trajectory = False
    changes_noise = True
    other_arithmetic = False
    mixes_batch = False

    def baseline(self, environment: Environment) -> Value:
        if environment.device == "cpu":
            return "float32"
        return "bfloat16" if has_bfloat16(environment) else "float16"

    def generates_other_noise(self, value: Value, baseline: Value) -> bool:
        return value != baseline and not generates_same_noise(str(value), str(baseline))

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value == "float16" and environment.device == "cpu":
            return "CPUs compute float16 by converting it: slower than float32 and no more precise than bfloat16"
        if value == "bfloat16" and environment.device == "cuda" and not has_bfloat16(environment):
            return "bfloat16 needs compute capability 8.0"
        return None

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        """Convert the pipeline, unless it was loaded in this type: some of its parts are in float32 on purpose."""
        import torch

        dtype = getattr(torch, str(values[self.name]))
        if all(denoiser.dtype == dtype for denoiser in denoisers(pipe)):
            return f"loaded in {values[self.name]}"
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                convert(part, dtype)
        stayed = [denoiser.dtype for denoiser in denoisers(pipe) if denoiser.dtype != dtype]
        if stayed:
            raise NoEffect(f"the denoiser stayed {stayed[0]}")
        return f"pipeline in {values[self.name]}"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return NOTHING  # an argument of from_pretrained


def has_bfloat16(environment: Environment) -> bool:
    """Return whether the GPU computes in bfloat16."""
    return capability(environment) >= 8.0


def generates_same_noise(dtype: str, other: str) -> bool:
    """Return whether this torch generates the same noise in two dtypes, but for rounding.

    torch 2.13 does, torch 2.11 generates another in each.
    """
    import torch

    first, second = (
        torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=getattr(torch, name)).float()
        for name in (dtype, other)
    )
    return bool(torch.allclose(first, second, atol=0.05))


def convert(model: Any, dtype: Any) -> None:
    """Convert a model to `dtype`, but for modules that its class keeps in float32, as loading it does."""
    kept = kept_in_float32(model, dtype)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and kept.isdisjoint(name.split(".")):
            tensor.data = tensor.data.to(dtype)


def kept_in_float32(model: Any, dtype: Any) -> set[str]:
    """Return the modules that a model's class keeps in float32; transformers' classes mean it for float16 only."""
    import torch
    from diffusers import ModelMixin

    kept = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if isinstance(model, ModelMixin) or dtype == torch.float16:
        kept.update(getattr(model, "_keep_in_fp32_modules", None) or ())
    return kept if dtype.itemsize == 2 else set()

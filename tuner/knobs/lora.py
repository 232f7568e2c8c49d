"""A LoRA that distils many steps into few, fused into the weights that it changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.knobs.base import Knob, NoEffect, denoisers
from tuner.knobs.code import NOTHING, Code, call
from tuner.knobs.conditions import missing_package
from tuner.knobs.user_weights import UserWeights, load_arguments, load_error
from tuner.model.diffusers_source import class_source
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture


class LoraFile(UserWeights):
    """A distilled LoRA, fused into the denoiser: a file or folder, or owner/name[/file.safetensors] on the hub."""

    name = "lora.file"
    order = 8
    uneven_steps = False
    changes_trajectory = False
    changes_noise = False
    other_arithmetic = False
    mixes_batch = False

    def unsupported_reason(self, environment: Environment, architecture: Architecture) -> str | None:
        name = architecture.pipeline_class
        if reason := missing_package(environment, "peft", "0.17"):
            return reason
        if len(architecture.denoisers) > 1:
            return f"{name} has two denoisers, and a LoRA is for one of them"
        if not loads_lora(name):
            return f"{name} loads no LoRA"
        return None

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        from safetensors import SafetensorError

        source = str(values[self.name])
        location, keywords = load_arguments(source)
        before = parameter_sums(pipe)
        copy_vectors(pipe)
        try:
            pipe.load_lora_weights(location, use_safetensors=True, **keywords)
        except (OSError, ValueError, IndexError, RuntimeError, SafetensorError) as error:
            raise load_error("LoRA for this pipeline", source, error) from None
        pipe.fuse_lora(lora_scale=float(values["lora.scale"]), safe_fusing=True)  # in copies: weights may be lent
        pipe.unload_lora_weights()
        after = parameter_sums(pipe)
        if after.keys() != before.keys():
            raise NoEffect("the LoRA's own weights were not unloaded")
        changed = sum(after[name] != before[name] for name in before)
        if not changed:
            raise NoEffect(f"{source} changed no weight of the denoiser")
        return f"{changed} weights changed at scale {values['lora.scale']}"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        location, keywords = load_arguments(str(values[self.name]))
        load = call("pipe.load_lora_weights", location, use_safetensors=True, **keywords)
        fuse = call("pipe.fuse_lora", lora_scale=float(values["lora.scale"]))
        return Code((load, fuse, "pipe.unload_lora_weights()"), needs=("peft",))


def loads_lora(pipeline_class: str) -> bool:
    """Return whether a pipeline class inherits one of diffusers' LoRA loaders."""
    declared = class_source("pipelines", pipeline_class).partition(f"class {pipeline_class}(")[2]
    return "LoraLoaderMixin" in declared.partition(":")[0]


def copy_vectors(pipe: Any) -> None:
    """Give the denoisers copies of their vectors, into which diffusers copies a LoRA's norms: weights may be lent."""
    for denoiser in denoisers(pipe):
        for parameter in denoiser.parameters():
            if parameter.ndim == 1:
                parameter.data = parameter.data.clone()


def parameter_sums(pipe: Any) -> dict[str, float]:
    """Return the sum of each weight of the denoisers by name. Fusing a LoRA into a weight changes its sum."""
    import torch

    return {
        f"{index}.{name}": float(parameter.detach().sum(dtype=torch.float64))
        for index, denoiser in enumerate(denoisers(pipe))
        for name, parameter in denoiser.named_parameters()
    }


class LoraScale(Knob):
    """How strongly the LoRA changes the weights; its author states it, for example 0.125 for Hyper-SD's of FLUX.1."""

    name = "lora.scale"
    choices = (1.0, 0.125)
    may_change_image = True
    uneven_steps = False
    changes_trajectory = False
    changes_noise = False
    other_arithmetic = False
    mixes_batch = False

    def invalid_reason(self, value: Value) -> str | None:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 2:
            return None
        return "must be a number between 0 and 2"

    def is_active(self, values: Mapping[str, Value]) -> bool:
        return values.get("lora.file", "none") != "none"

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        return f"scale {values[self.name]}"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return NOTHING

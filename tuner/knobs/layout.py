"""The memory layout of convolutions: channels last, which tensor cores read, or channels first, as they are loaded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from tuner.knobs.base import Knob, NoEffect, denoisers, for_each_denoiser
from tuner.knobs.code import Code
from tuner.model.diffusers_source import class_source
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture


class ChannelsLast(Knob):
    """Whether the convolution weights of a component are stored channels last."""

    choices = (False, True)
    order = 12

    @abstractmethod
    def models(self, pipe: Any) -> Sequence[Any]:
        """Return the models whose convolutions are laid out anew."""

    def is_set(self, pipe: Any, values: Mapping[str, Value]) -> bool:
        import torch

        formats = {torch.nn.Conv2d: torch.channels_last, torch.nn.Conv3d: torch.channels_last_3d}
        return all(
            module.weight.is_contiguous(memory_format=formats[type(module)])
            for model in self.models(pipe)
            for module in model.modules()
            if type(module) in formats
        )

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        changed = sum(map(to_channels_last, self.models(pipe)))
        if not changed:
            raise NoEffect("no convolution changed its layout")
        return f"{changed} convolutions are channels last"


class VaeChannelsLast(ChannelsLast):
    """Whether the VAE's convolution weights are stored channels last, the layout that tensor cores read."""

    name = "vae.channels_last"

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        return None if not value or "vae" in architecture.components else "this pipeline has no autoencoder"

    def models(self, pipe: Any) -> Sequence[Any]:
        return [pipe.vae]

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return Code(("to_channels_last(pipe.vae)",), carried=(to_channels_last,))


class DenoiserChannelsLast(ChannelsLast):
    """Whether the convolution weights of a UNet are stored channels last, the layout that tensor cores read."""

    name = "denoiser.channels_last"

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        names = [denoiser.class_name for denoiser in architecture.denoisers]
        if not value or any(map(is_unet, names)):
            return None
        return f"{' and '.join(dict.fromkeys(names))} is no UNet: its convolutions are few, or the same in both layouts"

    def models(self, pipe: Any) -> Sequence[Any]:
        return denoisers(pipe)

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return for_each_denoiser("to_channels_last(denoiser)", carried=(to_channels_last,))


def is_unet(class_name: str) -> bool:
    """Return whether a model class has down blocks, which consist of convolutions.

    Most that transformers have of them embed patches, or are as wide as a pixel or a channel.
    """
    return "self.down_blocks" in class_source("models", class_name)


def to_channels_last(model: Any) -> int:
    """Store the convolution weights of a model channels last, and count those that changed."""
    import torch

    formats = {torch.nn.Conv2d: torch.channels_last, torch.nn.Conv3d: torch.channels_last_3d}
    changed = 0
    for module in model.modules():
        for layer_type, memory_format in formats.items():
            if isinstance(module, layer_type) and not module.weight.is_contiguous(memory_format=memory_format):
                module.to(memory_format=memory_format)
                changed += module.weight.is_contiguous(memory_format=memory_format)
    return changed

"""The VAE: decoding in tiles and slices, and a tiny one in its place."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from tuner.errors import Unavailable
from tuner.knobs.base import Knob, NoEffect
from tuner.knobs.code import Code, call
from tuner.knobs.user_weights import UserWeights, load_arguments, load_error
from tuner.model.diffusers_source import class_source
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture


class TinyVae(UserWeights):
    """An AutoencoderTiny (TAESD) in place of the VAE: a folder, or owner/name on the hub."""

    name = "vae.tiny"
    order = 3
    uneven_steps = False
    changes_trajectory = False
    changes_noise = False
    other_arithmetic = False
    mixes_batch = False

    def invalid_reason(self, value: Value) -> str | None:
        if isinstance(value, str) and value.endswith(".safetensors"):
            return "must be a folder or owner/name on the hub, a file alone does not describe the layers"
        return super().invalid_reason(value)

    def unsupported_reason(self, environment: Environment, architecture: Architecture) -> str | None:
        own = architecture.components.get("vae", "no autoencoder")
        return None if own == "AutoencoderKL" else f"an AutoencoderTiny stands in for an AutoencoderKL, not for {own}"

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        from diffusers import AutoencoderTiny
        from safetensors import SafetensorError

        source, own = str(values[self.name]), pipe.vae
        location, keywords = load_arguments(source)
        try:
            tiny = AutoencoderTiny.from_pretrained(location, use_safetensors=True, **keywords)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise load_error("AutoencoderTiny", source, error) from None
        if tiny.config.latent_channels != own.config.latent_channels:
            has, needs = tiny.config.latent_channels, own.config.latent_channels
            raise Unavailable(f"{source} decodes latents of {has} channels, this pipeline's have {needs}")
        pipe.vae = tiny.to(device=own.device, dtype=own.dtype).eval()
        makes, needs = vae_scale_factor(pipe.vae), vae_scale_factor(own)
        if makes != needs:
            raise Unavailable(f"{source} makes {makes} pixels of a latent's side, this pipeline's own makes {needs}")
        return f"{parameter_count(pipe.vae):,} parameters decode instead of {parameter_count(own):,}"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        location, keywords = load_arguments(str(values[self.name]))
        lines = (
            f"tiny = {call('AutoencoderTiny.from_pretrained', location, use_safetensors=True, **keywords)}",
            "pipe.vae = tiny.to(device=pipe.vae.device, dtype=pipe.vae.dtype).eval()",
        )
        return Code(lines, ("from diffusers import AutoencoderTiny",))


def parameter_count(model: Any) -> int:
    """Count the parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def vae_scale_factor(vae: Any) -> int:
    """Return the ratio of the image's side to its latents', by decoding a small one."""
    import torch

    side = 8
    with torch.no_grad():
        latents = torch.zeros(1, vae.config.latent_channels, side, side, device=vae.device, dtype=vae.dtype)
        return int(vae.decode(latents, return_dict=False)[0].shape[-1]) // side


class VaeSplitting(Knob):
    """A switch that makes the VAE decode in pieces: slower, with less memory."""

    choices = (False, True)
    order = 4
    switch: ClassVar[str]

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        own = architecture.components.get("vae", "no autoencoder")
        if not value or f"if self.use_{self.switch}" in class_source("models", own):
            return None
        return f"{own} has no {self.switch}"

    def is_set(self, pipe: Any, values: Mapping[str, Value]) -> bool:
        return bool(getattr(pipe.vae, f"use_{self.switch}", False))

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        getattr(pipe.vae, f"enable_{self.switch}")()
        if not getattr(pipe.vae, f"use_{self.switch}"):
            raise NoEffect(f"{type(pipe.vae).__name__} did not switch {self.switch} on")
        return f"{type(pipe.vae).__name__} decodes with {self.switch}"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return Code((f"pipe.vae.enable_{self.switch}()",))


class Tiling(VaeSplitting):
    """Whether large images are decoded in overlapping tiles that are blended: less memory, more time."""

    methods: ClassVar = ("tiled_decode", "_tiled_decode", "_temporal_tiled_decode")

    name = "vae.tiling"
    switch = "tiling"
    may_change_image = True
    uneven_steps = False
    changes_trajectory = False
    changes_noise = False
    other_arithmetic = False
    mixes_batch = False

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        description, vae = super().apply(pipe, values), pipe.vae
        for method in self.methods:
            if hasattr(vae, method) and not values.get("compile.vae"):
                setattr(vae, method, _noting(vae, getattr(vae, method)))
        return description

    def watch(self, pipe: Any) -> None:
        pipe.vae.tuner_has_tiled = False

    def idle_reason(self, pipe: Any, values: Mapping[str, Value]) -> str | None:
        if values.get("compile.vae") or getattr(pipe.vae, "tuner_has_tiled", True):
            return None
        return "no image was larger than a tile"


def _noting(vae: Any, decode: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method that decodes in tiles so that it notes that it was called."""

    @functools.wraps(decode)
    def noted(*arguments: Any, **named: Any) -> Any:
        vae.tuner_has_tiled = True
        return decode(*arguments, **named)

    return noted


class Slicing(VaeSplitting):
    """Whether the images of a batch are decoded one after the other: less memory, more time."""

    name = "vae.slicing"
    switch = "slicing"

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if values.get(self.name) and values.get("batch") == 1:
            return "it splits a batch, and this batch is one image"
        return None

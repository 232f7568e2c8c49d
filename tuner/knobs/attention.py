"""Which kernel computes attention, through diffusers' dispatcher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.knobs.base import Knob, NoEffect, denoisers
from tuner.record import Architecture, Environment, Value

CUDA_ONLY = ("_native_cudnn", "_native_efficient")


class AttentionBackend(Knob):
    """The backends of diffusers that need torch alone. `native` lets torch choose."""

    name = "attention.backend"
    choices = ("native", "_native_flash", "_native_cudnn", "_native_efficient", "_native_math", "flex")
    order = 20

    def unavailable(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value == "native":
            return None
        if not all(denoiser.dispatches_attention for denoiser in architecture.denoisers):
            return f"{architecture.pipeline_class} does not call diffusers' attention dispatcher"
        if environment.device == "cpu" and value in CUDA_ONLY:
            return f"{value} is a CUDA kernel"
        return None

    def conflict(self, values: Mapping[str, Value]) -> str | None:
        if values.get(self.name) == "flex" and values["compile.scope"] == "none":
            return "flex attention is only fast, and only supported, when compiled"
        if values.get(self.name) in ("_native_flash", "_native_cudnn") and values.get("precision.dtype") == "float32":
            return f"{values[self.name]} has no float32 kernel"
        return None

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        backend = str(values[self.name])
        changed = 0
        for denoiser in denoisers(pipe):
            denoiser.set_attention_backend(backend)
            changed += sum(
                getattr(getattr(module, "processor", None), "_attention_backend", None) == backend
                for module in denoiser.modules()
            )
        if not changed:
            raise NoEffect(f"no attention processor took the backend {backend}")
        return f"{changed} attention processors use {backend}"

"""One matrix product for queries, keys and values instead of three."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.knobs.base import Knob, NoEffect, denoisers
from tuner.record import Architecture, Environment, Value


class FuseQkv(Knob):
    """diffusers' `fuse_qkv_projections`, where the model's forward really uses the fused weights."""

    name = "fuse_qkv"
    choices = (False, True)
    order = 10

    def unavailable(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if not value or all(denoiser.fuses_qkv for denoiser in architecture.denoisers):
            return None
        return f"{architecture.pipeline_class}'s attention ignores fused projections"

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        fused = 0
        for denoiser in denoisers(pipe):
            denoiser.fuse_qkv_projections()
            fused += sum(getattr(module, "fused_projections", False) is True for module in denoiser.modules())
        if not fused:
            raise NoEffect("no attention layer fused its projections")
        return f"{fused} attention layers fused"

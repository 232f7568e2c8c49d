"""Caching between denoising steps: blocks whose input hardly changed are not computed again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.knobs.base import Knob, NoEffect, denoisers
from tuner.record import Allowance, Architecture, Environment, Value


class CacheKind(Knob):
    """`first-block` (ParaAttention's method, in diffusers): when the first block's residual moved by less than
    the threshold since the last computed step, the other blocks' residual is reused."""

    name = "cache.kind"
    choices = ("none", "first-block")
    image = True
    order = 50

    def unavailable(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value == "none":
            return None
        if not all(denoiser.is_cacheable for denoiser in architecture.denoisers):
            return f"{architecture.pipeline_class}'s denoiser has no enable_cache"
        if not architecture.enters_cache_context:
            return f"{architecture.pipeline_class} never enters the cache context that the cache needs"
        return None

    def allowances(self, values: Mapping[str, Value]) -> tuple[Allowance, ...]:
        if values[self.name] == "none":
            return ()
        # The decision to skip is one number read back from the GPU at each step.
        return (Allowance(kind="device sync", count_per_step=1, knob=self.name),)

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        from diffusers import FirstBlockCacheConfig

        threshold = float(values["cache.threshold"])
        for denoiser in denoisers(pipe):
            try:
                denoiser.enable_cache(FirstBlockCacheConfig(threshold=threshold))
            except IndexError:  # diffusers takes the first and the last block of a list that has none
                raise NoEffect("the denoiser has no blocks to skip") from None
            if not denoiser.is_cache_enabled:
                raise NoEffect("the denoiser has no cache enabled")
        return f"first-block cache, threshold {threshold}"


class CacheThreshold(Knob):
    """The relative change of the first block's residual below which the other blocks are skipped."""

    name = "cache.threshold"
    choices = (0.05, 0.08, 0.1, 0.12, 0.2)
    image = True

    def wrong(self, value: Value) -> str | None:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 2:
            return None
        return "must be a number between 0 and 2"

    def active(self, values: Mapping[str, Value]) -> bool:
        return values["cache.kind"] == "first-block"

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        return f"threshold {values[self.name]}"

"""DeepCache (arXiv:2312.00858) for UNets: between full steps only the outermost layers are computed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from tuner.knobs.base import NoEffect
from tuner.knobs.caches.clock import Clock
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture


def unavailable_reason(environment: Environment, architecture: Architecture) -> str | None:
    """Return why DeepCache cannot be used for this pipeline, and the remedy, or None."""
    if any(denoiser.class_name != "UNet2DConditionModel" for denoiser in architecture.denoisers):
        return f"DeepCache skips the inner layers of a UNet, and {architecture.pipeline_class} has none"
    if not environment.libraries.get("DeepCache"):
        return "DeepCache is not installed (pip install DeepCache)"
    return None


def enable(pipe: Any, values: Mapping[str, Value]) -> str:
    """Enable the cache and describe it. Raises NoEffect if the UNet was not wrapped."""
    interval, clock, unwrapped = int(values["cache.interval"]), Clock(pipe), pipe.unet.forward
    helper = counting(importlib.import_module("DeepCache").DeepCacheSDHelper, clock)(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=0)
    helper.enable()
    if pipe.unet.forward is unwrapped:
        raise NoEffect("the UNet was not wrapped")
    return f"DeepCache, all layers every {interval} steps"


def counting(helper: Any, clock: Clock) -> Any:
    """Derive a helper from DeepCache's that reads the step from the clock.

    DeepCache searches for the timestep on the GPU and waits for it many times.
    """

    class CountingHelper(helper):  # type: ignore[misc]
        def wrap_unet_forward(self) -> None:
            forward = self.function_dict["unet_forward"] = self.pipe.unet.forward

            def at_step(*arguments: Any, **named: Any) -> Any:
                self.cur_timestep = clock.index
                return forward(*arguments, **named)

            self.pipe.unet.forward = at_step

        def is_skip_step(self, *arguments: Any, **named: Any) -> bool:
            is_skipped = bool(super().is_skip_step(*arguments, **named))
            if is_skipped:
                clock.skip()
            return is_skipped

    return CountingHelper

"""The caches of diffusers, which are hooks around blocks and attention layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tuner.knobs.base import NoEffect, denoisers
from tuner.knobs.caches.clock import Clock
from tuner.knobs.caches.witnesses import Witnesses
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture

FASTER_FORMATS: Mapping[str, str | None] = {
    "FluxTransformer2DModel": None,
    "HunyuanVideoTransformer3DModel": None,
    "CogVideoXTransformer3DModel": "BFCHW",
    "MochiTransformer3DModel": "BCFHW",
}
"""The tensor format of denoisers that get both guidance branches as one batch; None if guidance is an input."""


def without_context(environment: Environment, architecture: Architecture) -> str | None:
    """Return why the denoiser cannot enter diffusers' cache context, or None."""
    if not all(denoiser.is_cacheable for denoiser in architecture.denoisers):
        return f"{architecture.pipeline_class}'s denoiser has no enable_cache"
    if not architecture.enters_cache_context:
        return f"{architecture.pipeline_class} never enters the cache context that the cache needs"
    return None


def without_registered_blocks(environment: Environment, architecture: Architecture) -> str | None:
    """Return why diffusers' block caches do not support the denoiser's blocks, or None."""
    reason = without_context(environment, architecture)
    if reason is None and not all(denoiser.registers_blocks for denoiser in architecture.denoisers):
        return f"diffusers' block caches do not support the blocks of {architecture.pipeline_class}"
    return reason


def without_ratios(environment: Environment, architecture: Architecture) -> str | None:
    """Return why MagCache cannot be used for this denoiser, or None."""
    if any(denoiser.class_name != "FluxTransformer2DModel" for denoiser in architecture.denoisers):
        return f"MagCache's ratios are published for FLUX.1, not for the denoiser of {architecture.pipeline_class}"
    return without_registered_blocks(environment, architecture)


def without_projection(environment: Environment, architecture: Architecture) -> str | None:
    """Return why TaylorSeer cannot be used for this denoiser, or None."""
    reason = without_context(environment, architecture)
    if reason is None and not all(denoiser.projects_out for denoiser in architecture.denoisers):
        return f"{architecture.pipeline_class}'s denoiser has no proj_out, whose output TaylorSeer extrapolates"
    return reason


def without_format(environment: Environment, architecture: Architecture) -> str | None:
    """Return why FasterCache cannot be used for this denoiser, or None."""
    if any(denoiser.class_name not in FASTER_FORMATS for denoiser in architecture.denoisers):
        return f"FasterCache cannot split the guidance branches of {architecture.pipeline_class}"
    return without_context(environment, architecture)


def first_block(pipe: Any, values: Mapping[str, Value]) -> str:
    """Enable the first-block cache and describe it."""
    from diffusers import FirstBlockCacheConfig

    config = FirstBlockCacheConfig(threshold=float(values["cache.threshold"]))
    is_in_graph = values.get("compile.scope") == "full"  # then the gate rejects it, and nothing else must break there
    hooks, _ = _enable(pipe, config, "fbc_leader_block_hook", "fbc_block_hook", is_watched=not is_in_graph)
    return f"first-block cache, threshold {config.threshold}, on {hooks} blocks"


def mag(pipe: Any, values: Mapping[str, Value]) -> str:
    """Enable MagCache and describe it.

    The hooks share one config, which is adapted to each call's number of steps.
    """
    from diffusers import MagCacheConfig
    from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS

    config = MagCacheConfig(
        threshold=float(values["cache.threshold"]),
        max_skip_steps=int(values["cache.max_skip_steps"]),
        mag_ratios=FLUX_MAG_RATIOS,
    )
    hooks, clock = _enable(pipe, config, "mag_cache_leader_block_hook", "mag_cache_block_hook")

    clock.on_begin(lambda: stretch(config, clock.steps))
    return f"MagCache, threshold {config.threshold}, at most {config.max_skip_steps} steps, on {hooks} blocks"


def stretch(config: Any, steps: int) -> None:
    """Adapt the ratios of MagCache to a call's number of steps."""
    from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS, nearest_interp

    config.num_inference_steps = steps
    config.mag_ratios = nearest_interp(FLUX_MAG_RATIOS, steps).tolist()


def taylorseer(pipe: Any, values: Mapping[str, Value]) -> str:
    """Enable TaylorSeer and describe it."""
    from diffusers import TaylorSeerCacheConfig

    config = TaylorSeerCacheConfig(
        cache_interval=int(values["cache.interval"]), use_lite_mode=True, taylor_factors_dtype=pipe.dtype
    )
    hooks, _ = _enable(pipe, config, "taylorseer_cache")
    return f"TaylorSeer in lite mode, interval {config.cache_interval}, on {hooks} modules"


def faster(pipe: Any, values: Mapping[str, Value]) -> str:
    """Enable FasterCache and describe it."""
    clock, interval = Clock(pipe), int(values["cache.interval"])
    config = faster_config(type(pipe.transformer).__name__, interval, clock)
    hooks, _ = _enable(pipe, config, "faster_cache_block", clock=clock)
    return f"FasterCache, interval {interval}, on {hooks} attention layers"


def faster_config(denoiser: str, interval: int, clock: Clock) -> Any:
    """Return diffusers' configuration of FasterCache for a denoiser of this class."""
    from diffusers import FasterCacheConfig

    form = FASTER_FORMATS[denoiser]
    return FasterCacheConfig(
        spatial_attention_block_skip_range=interval,
        current_timestep_callback=lambda: clock.timestep,
        attention_weight_callback=lambda _: 0.5,
        is_guidance_distilled=form is None,
        tensor_format=form or "BCHW",
    )


def _enable(
    pipe: Any, config: Any, *names: str, clock: Clock | None = None, is_watched: bool = True
) -> tuple[int, Clock]:
    """Enable a cache on every denoiser, count the hooks with these names, and watch when they skip.

    The state is reset whenever a call of the pipeline begins. diffusers resets it at a call's end only, which a failed
    call does not reach. Raises NoEffect if no module took a hook.
    """
    clock, count = clock or Clock(pipe), 0
    for denoiser in denoisers(pipe):
        try:
            denoiser.enable_cache(config)
        except IndexError:  # diffusers indexes the first and the last block, and there are none
            raise NoEffect("the denoiser has no blocks to skip") from None
        hooks = list(_hooks(denoiser.modules(), names))
        if is_watched:
            Witnesses(denoiser, clock, hooks=hooks)
        count += len(hooks)
        clock.on_begin(denoiser._reset_stateful_cache)
    if not count:
        raise NoEffect("no module of the denoiser took the cache's hook")
    return count, clock


def _hooks(modules: Iterable[Any], names: tuple[str, ...]) -> Iterator[Any]:
    registries = filter(None, (getattr(module, "_diffusers_hook", None) for module in modules))
    return filter(None, (registry.get_hook(name) for registry in registries for name in names))

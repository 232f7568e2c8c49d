"""DBCache, from the package cache-dit: like the first-block cache, with more blocks to decide by."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tuner.knobs.base import NoEffect, denoisers
from tuner.knobs.caches.clock import Clock
from tuner.knobs.caches.witnesses import Witnesses
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture

DECIDING_BLOCKS = 8
"""The number of first blocks that are always computed (cache-dit's default). A small model has fewer."""

WARM_UP_STEPS = 2
"""Less than cache-dit's default of 8, so that a short call, such as the traced one, also has steps to skip."""


def unavailable_reason(environment: Environment, architecture: Architecture) -> str | None:
    """Return why DBCache cannot be used for this pipeline, and the remedy, or None."""
    if not environment.libraries.get("cache-dit"):
        return "cache-dit is not installed (pip install cache-dit)"
    adapters = _adapters()
    adapter = next((text for name, text in adapters.items() if architecture.pipeline_class.startswith(name)), "")
    if adapters and not all(denoiser.class_name in adapter for denoiser in architecture.denoisers):
        return f"cache-dit has no adapter for {architecture.pipeline_class} and its denoiser"
    return None


def enable(pipe: Any, values: Mapping[str, Value]) -> str:
    """Enable the cache and describe it. Raises NoEffect if cache-dit did not wrap the denoiser."""
    cache_dit = importlib.import_module("cache_dit")
    config = cache_config(pipe, float(values["cache.threshold"]), int(values["cache.max_skip_steps"]))
    cache_dit.enable_cache(pipe, cache_config=config)
    if not all(getattr(denoiser, "_is_cached", False) for denoiser in denoisers(pipe)):
        raise NoEffect("cache-dit did not wrap the denoiser")
    clock = Clock(pipe)
    for denoiser in denoisers(pipe):
        Witnesses(denoiser, clock, modules=[blocks[-1] for blocks in _block_lists(denoiser)])
    return f"DBCache, threshold {config.residual_diff_threshold}, decided after {config.Fn_compute_blocks} blocks"


def cache_config(pipe: Any, threshold: float, max_skip_steps: int) -> Any:
    """Return cache-dit's configuration of DBCache for a pipeline."""
    cache_dit = importlib.import_module("cache_dit")
    lengths = [len(blocks) for denoiser in denoisers(pipe) for blocks in _block_lists(denoiser)]
    return cache_dit.DBCacheConfig(
        Fn_compute_blocks=max(1, min(DECIDING_BLOCKS, min(lengths, default=0) // 2)),
        max_warmup_steps=WARM_UP_STEPS,
        max_continuous_cached_steps=max_skip_steps,
        residual_diff_threshold=threshold,
        enable_separate_cfg=_calls_twice(pipe),
    )


@cache
def _adapters() -> dict[str, str]:
    """Return the source of each of cache-dit's adapters by the prefix of its pipelines' names.

    cache-dit uses the first adapter whose prefix fits. The result is empty if the source is not installed.
    """
    spec = importlib.util.find_spec("cache_dit")
    if spec is None or spec.origin is None:
        return {}
    file = Path(spec.origin).parent / "caching" / "block_adapters" / "adapters.py"
    parts = re.split(
        r'^@BlockAdapterRegister\.register\("(\w+)".*$', file.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _block_lists(denoiser: Any) -> list[Any]:
    """Return the lists of more than one block."""
    import torch

    return [child for child in denoiser.children() if isinstance(child, torch.nn.ModuleList) and len(child) > 1]


def _calls_twice(pipe: Any) -> bool | None:
    """Return None to let cache-dit decide, or False if guidance needs a negative prompt, which most calls omit."""
    return False if "true_cfg_scale" in inspect.signature(pipe.__call__).parameters else None

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
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture

DECIDING_BLOCKS = 8
"""As many first blocks are always computed, fewer in a small model: cache-dit's default."""

WARM_UP_STEPS = 2
"""Less than cache-dit's default of 8, so that a call of few steps, as the traced one is, has steps to skip too."""


def unavailable_reason(environment: Environment, architecture: Architecture) -> str | None:
    if not environment.libraries.get("cache-dit"):
        return "cache-dit is not installed (pip install cache-dit)"
    adapters = _adapters()
    adapter = next((text for name, text in adapters.items() if architecture.pipeline_class.startswith(name)), "")
    if adapters and not all(denoiser.class_name in adapter for denoiser in architecture.denoisers):
        return f"cache-dit has no adapter for {architecture.pipeline_class} and its denoiser"
    return None


def enable(pipe: Any, values: Mapping[str, Value]) -> str:
    cache_dit = importlib.import_module("cache_dit")
    deciding = max(1, min(DECIDING_BLOCKS, min(_lengths(pipe), default=0) // 2))
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=deciding,
        max_warmup_steps=WARM_UP_STEPS,
        max_continuous_cached_steps=int(values["cache.max_skip_steps"]),
        residual_diff_threshold=float(values["cache.threshold"]),
        enable_separate_cfg=_calls_twice(pipe),
    )
    cache_dit.enable_cache(pipe, cache_config=config)
    if not all(getattr(denoiser, "_is_cached", False) for denoiser in denoisers(pipe)):
        raise NoEffect("cache-dit did not wrap the denoiser")
    return f"DBCache, threshold {config.residual_diff_threshold}, decided after {deciding} blocks"


@cache
def _adapters() -> dict[str, str]:
    """The source of cache-dit's adapters, by what the names of their pipelines begin with: it takes the first.

    Empty where the source is not at hand.
    """
    spec = importlib.util.find_spec("cache_dit")
    if spec is None or spec.origin is None:
        return {}
    file = Path(spec.origin).parent / "caching" / "block_adapters" / "adapters.py"
    found = re.split(
        r'^@BlockAdapterRegister\.register\("(\w+)".*$', file.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    return dict(zip(found[1::2], found[2::2], strict=True))


def _lengths(pipe: Any) -> list[int]:
    """How many blocks there are in each list of them."""
    import torch

    children = (child for denoiser in denoisers(pipe) for child in denoiser.children())
    return [len(child) for child in children if isinstance(child, torch.nn.ModuleList) and len(child) > 1]


def _calls_twice(pipe: Any) -> bool | None:
    """False where guidance needs a negative prompt, which most calls do not give; else cache-dit knows."""
    return False if "true_cfg_scale" in inspect.signature(pipe.__call__).parameters else None

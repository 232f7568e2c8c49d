"""A configuration as a YAML file of cache-dit, for `cache_dit.enable_cache(pipe, **cache_dit.load_configs(FILE))`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from tuner.export.wording import Said, WordingTarget, Words, attention_backend, by_value
from tuner.knobs.caches.dbcache import DECIDING_BLOCKS, WARM_UP_STEPS
from tuner.records.codec import Values
from tuner.result.records import BestConfig

FEWER_BLOCKS = f"a model with lists of fewer than {2 * DECIDING_BLOCKS} blocks was measured with half of the shortest"


def dbcache_settings(values: Values) -> dict[str, Any]:
    """Return the fields of cache-dit's DBCacheConfig with which DBCache was measured."""
    return {
        "Fn_compute_blocks": DECIDING_BLOCKS,
        "Bn_compute_blocks": 0,
        "max_warmup_steps": WARM_UP_STEPS,
        "max_continuous_cached_steps": int(values["cache.max_skip_steps"]),
        "residual_diff_threshold": float(values["cache.threshold"]),
    }


def cache(values: Values) -> Words | None:
    """Write DBCache, and the first-block cache as DBCache that decides after one block."""
    if values["cache.kind"] == "dbcache":
        return Words({"cache_config": dbcache_settings(values)}, FEWER_BLOCKS)
    if values["cache.kind"] == "first-block":
        config: dict[str, Any] = {"Fn_compute_blocks": 1, "Bn_compute_blocks": 0, "max_warmup_steps": 0}
        config |= {"residual_diff_threshold": float(values["cache.threshold"])}
        return Words({"cache_config": config}, "diffusers' own cache was measured, of which this is cache-dit's like")
    return None


QUANTIZED = {
    "int8-weight-only": {"quant_type": "int8_weight_only"},
    "int8-dynamic": {"quant_type": "int8_per_row"},
    "fp8-weight-only": {"quant_type": "float8_weight_only"},
    "fp8-dynamic-row": {"quant_type": "float8_per_row"},
    "fp8-dynamic-tensor": {"quant_type": "float8_per_tensor"},
    "int4-weight-only": {"quant_type": "int4_weight_only"},
}


class CacheDit(WordingTarget):
    """A YAML file for `cache_dit.load_configs`: cache, quantization and attention backend."""

    name = "cache-dit"
    title = "cache-dit"
    version = "1.5.3"
    words = {  # noqa: RUF012
        "cache.kind": cache,
        "quantization.scheme": by_value(
            "quantization.scheme", "quantize_config", QUANTIZED, "cache-dit chooses the layers itself"
        ),
        "attention.backend": attention_backend(lambda name: Words({"attention_backend": name})),
    }

    def body(self, best: BestConfig, said: Said) -> Iterator[str]:
        yield yaml.safe_dump(said.data, sort_keys=False).rstrip()

"""The methods that cache between denoising steps in plain Python, for `tune export`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tuner.knobs.base import for_each_denoiser
from tuner.knobs.caches.broadcast import broadcast_attention
from tuner.knobs.caches.clock import Clock
from tuner.knobs.caches.dbcache import cache_config
from tuner.knobs.caches.deepcache import counting
from tuner.knobs.caches.hooks import faster_config, stretch
from tuner.knobs.caches.teacache import TeaCache
from tuner.knobs.code import Code, call
from tuner.records.codec import Value


def first_block(values: Mapping[str, Value]) -> Code:
    """Write the first-block cache."""
    config = call("FirstBlockCacheConfig", threshold=float(values["cache.threshold"]))
    return for_each_denoiser(
        f"denoiser.enable_cache({config})", imports=("from diffusers import FirstBlockCacheConfig",)
    )


def mag(values: Mapping[str, Value]) -> Code:
    """Write MagCache."""
    threshold, max_skip_steps = float(values["cache.threshold"]), int(values["cache.max_skip_steps"])
    each = for_each_denoiser("denoiser.enable_cache(mag)")
    lines = (
        f"numbers = {{'threshold': {threshold}, 'max_skip_steps': {max_skip_steps}}}",
        "mag = MagCacheConfig(**numbers, mag_ratios=FLUX_MAG_RATIOS)",
        *each.lines,
        "clock = Clock(pipe)",
        "clock.on_begin(lambda: stretch(mag, clock.steps))",
    )
    imports = ("from diffusers import MagCacheConfig", "from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS")
    return Code(lines, imports, (*each.carried, Clock, stretch))


def taylorseer(values: Mapping[str, Value]) -> Code:
    """Write TaylorSeer."""
    numbers = f"cache_interval={int(values['cache.interval'])}, use_lite_mode=True"
    return for_each_denoiser(
        f"config = TaylorSeerCacheConfig({numbers}, taylor_factors_dtype=pipe.dtype)",
        "denoiser.enable_cache(config)",
        imports=("from diffusers import TaylorSeerCacheConfig",),
    )


def pab(values: Mapping[str, Value]) -> Code:
    """Write pyramid attention broadcast."""
    return Code((f"broadcast_attention(pipe, {int(values['cache.interval'])})",), carried=(broadcast_attention,))


def faster(values: Mapping[str, Value]) -> Code:
    """Write FasterCache."""
    made = f"faster_config(type(denoiser).__name__, {int(values['cache.interval'])}, clock)"
    each = for_each_denoiser(f"denoiser.enable_cache({made})")
    return Code(("clock = Clock(pipe)", *each.lines), carried=(*each.carried, Clock, faster_config))


def teacache(values: Mapping[str, Value]) -> Code:
    """Write TeaCache."""
    lines = (
        f"teacache = TeaCache({float(values['cache.threshold'])}, Clock(pipe))",
        "teacache.wrap([*pipe.transformer.transformer_blocks, *pipe.transformer.single_transformer_blocks])",
    )
    return Code(lines, carried=(TeaCache, Clock))


def dbcache(values: Mapping[str, Value]) -> Code:
    """Write DBCache."""
    threshold, max_skip_steps = float(values["cache.threshold"]), int(values["cache.max_skip_steps"])
    lines = (
        f"config = cache_config(pipe, {threshold}, {max_skip_steps})",
        "cache_dit.enable_cache(pipe, cache_config=config)",
    )
    return Code(lines, ("import cache_dit",), (cache_config,), ("cache-dit",))


def deepcache(values: Mapping[str, Value]) -> Code:
    """Write DeepCache."""
    lines = (
        "helper = counting(DeepCacheSDHelper, Clock(pipe))(pipe=pipe)",
        f"helper.set_params(cache_interval={int(values['cache.interval'])}, cache_branch_id=0)",
        "helper.enable()",
    )
    return Code(lines, ("from DeepCache import DeepCacheSDHelper",), (counting, Clock), ("DeepCache",))


CODES: Mapping[str, Callable[[Mapping[str, Value]], Code]] = {
    "first-block": first_block,
    "mag": mag,
    "taylorseer": taylorseer,
    "pab": pab,
    "faster": faster,
    "teacache": teacache,
    "dbcache": dbcache,
    "deepcache": deepcache,
}

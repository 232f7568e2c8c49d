"""Effects of the kernel that computes attention."""

from __future__ import annotations

from collections.abc import Mapping

from tuner.advisor.call import ATTENTION, COPIES
from tuner.advisor.effects import MARGIN, Effect, EffectOf, Facts, change
from tuner.advisor.products import flops
from tuner.knobs.attention import BACKENDS
from tuner.numbers import format_latency
from tuner.records.codec import Value
from tuner.timing.rates import FLOAT8

HOPPER = 9

REMAINING: Mapping[str, tuple[float, float, float]] = {
    "_native_flash": (1.95, 1.6, 2.1),
    "_native_cudnn": (1.0, 0.95, 1.5),
    "_native_efficient": (3.9, 2.5, 5.0),
    "_native_math": (27.0, 8.0, 40.0),
    "flex": (1.37, 1.1, 1.8),
    "flash": (1.95, 1.5, 2.2),
    "_flash_3": (1.0, 0.85, 1.2),
    "xformers": (2.0, 1.2, 2.8),
    "sage": (0.75, 0.55, 1.2),
    "_sage_qk_int8_pv_fp16_triton": (1.2, 0.7, 2.0),
    "_sage_qk_int8_pv_fp16_cuda": (1.1, 0.7, 1.7),
    "_sage_qk_int8_pv_fp8_cuda": (0.9, 0.6, 1.3),
    "_sage_qk_int8_pv_fp8_cuda_sm90": (0.75, 0.5, 1.2),
    "cudnn_fp8": (0.83, 0.65, 1.1),
}
"""What remains of attention's time with a kernel, against torch's own choice on an H200, which is cuDNN's: native ones
and flex measured there on FLUX.1-dev (24 heads, 4608 tokens), cudnn_fp8 between two variants of it that were (0.81 and
0.86), the others by their authors' figures."""

KERNEL_LEAST = 0.65
"""A kernel takes at least this share of what is expected of it."""

PROBE_ERROR = 0.15
"""How far a kernel inside a call may be from the kernel alone."""


def backend(value: Value, facts: Facts) -> Effect:
    """Return the effect of another kernel: as measured at the workload's own shape, else as elsewhere."""
    name = str(value)
    if BACKENDS[name].refused:
        return Effect(f"it is never offered: {BACKENDS[name].refused}")
    least = _least(facts, approximate=BACKENDS[name].approximate)
    seconds, own = facts.roofline.attention_s.get(name), facts.roofline.attention_s.get("native")
    if seconds and own:
        factor = seconds / own
        low, high = factor * (1 - PROBE_ERROR), factor * (1 + PROBE_ERROR)
        text = f"at this workload's shape it takes {format_latency(seconds)}, torch's own choice {format_latency(own)}"
    else:
        factor, low, high = REMAINING[name]
        if not _is_hopper(facts):  # where torch does not choose cuDNN, its own choice is flash
            factor, low = (factor if name == "_native_math" else 1.0), min(low, 0.6)
        text = "measured elsewhere, against torch's own choice"
    least = max(least, KERNEL_LEAST * factor)
    low = max(low, least)
    changes = [change(ATTENTION, max(factor, low), low, max(high, low), least)]
    if name == "_native_cudnn":
        changes.append(change(COPIES, 1.0, 0.95, 1.5, 0.9))
    return Effect(text, tuple(changes))


def _least(facts: Facts, *, approximate: bool) -> float:
    """Return what remains of attention if it ran at the rate of large products; approximate kernels at fp8's."""
    flop, call = facts.roofline.flop_by_class.get("attention"), facts.call
    dtype = str(facts.without["precision.dtype"])
    rate = facts.roofline.flop_per_s.get(FLOAT8 if approximate else dtype) or facts.roofline.flop_per_s.get(dtype)
    seconds = call.parts[ATTENTION]
    if not flop or not rate or not seconds:
        return 0.2
    times = int(facts.without["steps"]) * int(facts.without["batch"])
    return min(1.0, flop * times / seconds / (rate * MARGIN))


def _is_hopper(facts: Facts) -> bool:
    return facts.on_gpu and float(facts.environment.compute_capability or 0) >= HOPPER


def implementation(value: Value, facts: Facts) -> Effect:
    """Return the effect of FA3 or FA4 instead of torch's FlashAttention 2."""
    least = _least(facts, approximate=False)
    factor = max(least, 0.52)
    why = "FA3 reaches 632 TFLOP/s on an H100 where FlashAttention 2 reaches 329 (pytorch#142132)"
    rate = facts.roofline.flop_per_s.get(str(facts.without["precision.dtype"]))
    limit = f"; the device's limit is {flops(rate)}" if rate else ""
    return Effect(why + limit, (change(ATTENTION, factor, max(least, 0.42), max(factor, 0.75), least),))


ATTENTION_EFFECTS: dict[str, EffectOf] = {"attention.backend": backend, "attention.flash_impl": implementation}
"""The effects of the knobs that choose attention's kernel."""

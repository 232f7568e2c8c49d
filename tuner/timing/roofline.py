"""Roofline: how close a configuration comes to the limits of the device.

The baseline's worker counts the FLOP of a step and measures the rates of the device once per study, which takes
seconds. A rate is what a large matrix product or copy reaches here, under the device's clocks and power limit, and not
the figure of its data sheet.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any, TypeVar

from tuner.numbers import format_number
from tuner.records.codec import Value, Values
from tuner.records.machine import Environment, LimitShare, Roofline
from tuner.records.outcome import Components
from tuner.timing.components import denoisers, patch_calls
from tuner.timing.measure import Clock, CudaClock, time_call

T = TypeVar("T")

COPY = "copy"
FLOAT8 = "float8_e4m3fn"
FLOAT8_CAPABILITY = 8.9

TYPES = {"cuda": ("bfloat16", "float16", "float32", FLOAT8), "cpu": ("float32", "bfloat16")}
"""The types of the matrix products whose rate is measured."""

SIDE = {"cuda": 8192, "cpu": 512}
"""Rows and columns of the multiplied matrices."""

COPIED_BYTES = 1 << 30
"""Far more than the cache of a GPU holds. A CPU times no copy, which would count as memory of the pipeline."""

CALLS = {"cuda": 10, "cpu": 1}
"""Products or copies in one sample: enough that a GPU does not wait for the next launch."""

WARM_UP, SAMPLES = 2, 7

LIMIT_S = 2.0
"""How long the samples of a rate may take. A CPU without instructions for a type multiplies a hundred times slower."""

COUNTED_STEPS = 2

PRODUCTS: Mapping[str, str | None] = {
    "fp8-dynamic-row": FLOAT8,
    "fp8-dynamic-tensor": FLOAT8,
    "int8-dynamic": None,
    "mxfp8": None,
    "nvfp4": None,
}
"""Quantization schemes that multiply in another type than `precision.dtype`. None: its rate is not measured."""

NAMES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", FLOAT8: "fp8", COPY: "copy"}


# ---- in the worker --------------------------------------------------------------------------------------------------


def measure_roofline(generate: Callable[[int], object], pipe: Any, environment: Environment, batch: int) -> Roofline:
    """Measure what bounds a denoising step of an unmodified pipeline on this device.

    `generate(steps)` makes one call with `batch` images. A quantity that cannot be determined is None, and
    `unavailable_reasons` says why: none of them is worth losing the baseline.
    """
    device, unavailable_reasons = environment.device, list[str]()
    clock = CudaClock() if device == "cuda" else Clock()
    flop = _attempt("FLOP of a step", unavailable_reasons, partial(_flop_per_step, generate, pipe))
    rates: dict[str, float] = {}
    for dtype in TYPES[device]:
        if dtype == FLOAT8 and float(environment.compute_capability or 0) < FLOAT8_CAPABILITY:
            continue
        rate = _attempt(f"rate of {NAMES[dtype]}", unavailable_reasons, partial(_product_rate, dtype, device, clock))
        if rate is not None:
            rates[dtype] = rate
    copy_rate = (
        _attempt("rate of copies", unavailable_reasons, partial(_copy_rate, clock)) if device == "cuda" else None
    )
    return Roofline(
        flop_per_step=flop / batch if flop else None,
        weight_bytes=_weight_bytes(pipe) or None,
        flop_per_s=rates,
        copy_bytes_per_s=copy_rate,
        unavailable_reasons=tuple(unavailable_reasons),
    )


def _attempt(quantity: str, unavailable_reasons: list[str], function: Callable[[], T]) -> T | None:
    try:
        return function()
    except Exception as error:
        message = (str(error).strip().splitlines() or [""])[0]
        unavailable_reasons.append(f"{quantity}: {type(error).__name__}: {message}"[:200])
        return None


def _flop_per_step(generate: Callable[[int], object], pipe: Any) -> float:
    """Count the denoiser's FLOP per step with torch.utils.flop_counter. Attention counts as its two products."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    counted = 0

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    def counting(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal counted
            # torch has no formula for the attention of a CPU.
            formulas = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
            with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
                result = original(*arguments, **named)
            counted += counter.get_total_flops()
            return result

        return call

    with patch_calls(denoisers(pipe), counting):
        generate(COUNTED_STEPS)
    return counted / COUNTED_STEPS


def _weight_bytes(pipe: Any) -> int:
    """Return the bytes of the largest denoiser's weights. Of two denoisers each step reads only one."""
    weights = [list(denoiser.parameters()) for denoiser in denoisers(pipe)]
    sizes = [sum(weight.numel() * weight.element_size() for weight in of_one) for of_one in weights]
    return max(sizes, default=0)


def _product_rate(dtype: str, device: str, clock: Clock) -> float:
    """Measure the FLOP per second of a large matrix product of a type."""
    import torch

    side = SIDE[device]
    left = torch.randn(side, side, device=device).to(getattr(torch, dtype))
    right = torch.randn(side, side, device=device).to(getattr(torch, dtype))
    if dtype == FLOAT8:
        one = torch.ones((), device=device)
        product = partial(
            torch._scaled_mm, left, right.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
        )
    else:
        product = partial(torch.mm, left, right, out=torch.empty_like(left))
    return 2.0 * side**3 / _seconds(product, device, clock)


def _copy_rate(clock: Clock) -> float:
    """Measure the bytes per second that a large copy within the GPU's memory reads and writes."""
    import torch

    source = torch.ones(COPIED_BYTES, dtype=torch.uint8, device="cuda")
    return 2.0 * COPIED_BYTES / _seconds(partial(torch.empty_like(source).copy_, source), "cuda", clock)


def _seconds(work: Callable[[], object], device: str, clock: Clock) -> float:
    """Return the seconds that work takes on the device when it is warm, and release the memory it held."""
    import torch

    def several() -> None:
        for _ in range(CALLS[device]):
            work()

    try:
        with torch.inference_mode():
            samples = _samples(several, clock)
    finally:
        if device == "cuda":
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()
    return median(samples) / CALLS[device]


def _samples(work: Callable[[], object], clock: Clock) -> list[float]:
    """Return the seconds of several calls after the warm-up, at least those of a second call."""
    until = time.monotonic() + LIMIT_S
    samples: list[float] = []
    while len(samples) < 2 or (len(samples) < WARM_UP + SAMPLES and time.monotonic() < until):
        samples.append(time_call(work, clock)[1])
    return samples[min(WARM_UP, len(samples) - 1) :]


# ---- anywhere -------------------------------------------------------------------------------------------------------


def limit_share(
    found: Roofline | None, parts: Components | None, values: Values, baseline: Values, *, other_arithmetic: bool
) -> LimitShare | None:
    """Return how close the steps of a configuration come to the rate that bounds them, or None if unknown.

    The rate is that of matrix products, or that of copies, since every step reads all weights. `parts` are the timed
    components of one call of the configuration. `baseline` holds the values of the unmodified pipeline, for which the
    FLOP were counted; with `other_arithmetic` a step of the configuration computes something else.
    """
    if found is None or parts is None or not parts.denoiser_s or other_arithmetic:
        return None
    step_s = parts.denoiser_s / int(values["steps"])
    shares = []
    dtype = PRODUCTS.get(str(values.get("quantization.scheme", "none")), str(values["precision.dtype"]))
    if found.flop_per_step and dtype is not None and dtype in found.flop_per_s:
        flop_per_s = found.flop_per_step * int(values["batch"]) / step_s
        shares.append(LimitShare(share=flop_per_s / found.flop_per_s[dtype], rate=dtype))
    if found.weight_bytes and found.copy_bytes_per_s and _has_weights_of(values, baseline):
        shares.append(LimitShare(share=found.weight_bytes / step_s / found.copy_bytes_per_s, rate=COPY))
    return max(shares, key=lambda limit: limit.share, default=None)


def describe(limit: LimitShare, device: str = "") -> str:
    """Format as `70 % of this GPU's bf16 rate`, or `70 % of bf16` without a device."""
    whose = {"cuda": "this GPU's ", "cpu": "this CPU's "}.get(device, "")
    percent = f"{format_number(limit.share * 100, 2)} %"
    return f"{percent} of {whose}{NAMES.get(limit.rate, limit.rate)}{' rate' if whose else ''}"


def _has_weights_of(values: Mapping[str, Value], baseline: Mapping[str, Value]) -> bool:
    names = ("precision.dtype", "quantization.scheme", "quantization.gguf_file", "memory.layerwise_casting")
    return all(values.get(name) == baseline.get(name) for name in names)

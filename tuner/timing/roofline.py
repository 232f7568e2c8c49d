"""How close a configuration comes to what the device can do: the arithmetic of a step, and the rates within reach.

The worker of the baseline counts and measures once a study, in seconds; the rest is arithmetic. A rate is what a large
product or copy reaches here, under the clocks and the power limit that this device runs with, not its data sheet's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from tuner.records.codec import Value, Values
from tuner.records.machine import Environment, LimitShare, Roofline
from tuner.records.outcome import Components
from tuner.timing.components import denoisers, patch_calls
from tuner.timing.intervals import median
from tuner.timing.measure import Clock, CudaClock, time_call

T = TypeVar("T")

COPY = "copy"
FLOAT8 = "float8_e4m3fn"
FLOAT8_CAPABILITY = 8.9

TYPES = {"cuda": ("bfloat16", "float16", "float32", FLOAT8), "cpu": ("float32", "bfloat16")}
"""Of the products whose rate is measured."""

SIDE = {"cuda": 8192, "cpu": 1024}
"""Rows and columns of the matrices that are multiplied."""

COPIED_BYTES = 1 << 30
"""Far more than a GPU's cache holds. On a CPU it would count as memory of the pipeline: no copy is timed there."""

CALLS = {"cuda": 10, "cpu": 1}
"""In one sample, so that a GPU does not wait for the next."""

WARM_UP, SAMPLES = 2, 7
COUNTED_STEPS = 2

PRODUCTS: Mapping[str, str | None] = {
    "fp8-dynamic-row": FLOAT8,
    "fp8-dynamic-tensor": FLOAT8,
    "int8-dynamic": None,
    "mxfp8": None,
    "nvfp4": None,
}
"""Quantization schemes that multiply in another type than `precision.dtype`; None where its rate is not measured."""

NAMES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", FLOAT8: "fp8", COPY: "copy"}


# ---- in the worker --------------------------------------------------------------------------------------------------


def measure_roofline(draw: Callable[[int], object], pipe: Any, environment: Environment, batch: int) -> Roofline:
    """What bounds a step of an untouched pipeline here; `draw` makes one call of so many steps and `batch` images.

    Whatever cannot be found out is absent, with the reason: nothing of it is worth losing the baseline for.
    """
    device, unavailable_reasons = environment.device, list[str]()
    clock = CudaClock() if device == "cuda" else Clock()
    flop = _attempt("arithmetic of a step", unavailable_reasons, partial(_flop_per_step, draw, pipe))
    rates: dict[str, float] = {}
    for kind in TYPES[device]:
        if kind == FLOAT8 and float(environment.compute_capability or 0) < FLOAT8_CAPABILITY:
            continue
        rate = _attempt(f"rate of {NAMES[kind]}", unavailable_reasons, partial(_product_rate, kind, device, clock))
        if rate is not None:
            rates[kind] = rate
    copies = _attempt("rate of copies", unavailable_reasons, partial(_copy_rate, clock)) if device == "cuda" else None
    return Roofline(
        flop_per_step=flop / batch if flop else None,
        weight_bytes=_weight_bytes(pipe) or None,
        flop_per_s=rates,
        copy_bytes_per_s=copies,
        unavailable_reasons=tuple(unavailable_reasons),
    )


def _attempt(what: str, unavailable_reasons: list[str], question: Callable[[], T]) -> T | None:
    try:
        return question()
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0]
        unavailable_reasons.append(f"{what}: {type(error).__name__}: {said}"[:200])
        return None


def _flop_per_step(draw: Callable[[int], object], pipe: Any) -> float:
    """What torch.utils.flop_counter counts in the denoiser, a step. Attention counts as its two products."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    counted = 0

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    def counting(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal counted
            # torch's own table lacks the attention of a CPU.
            formulas = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
            with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
                result = original(*arguments, **named)
            counted += counter.get_total_flops()
            return result

        return call

    with patch_calls(denoisers(pipe), counting):
        draw(COUNTED_STEPS)
    return counted / COUNTED_STEPS


def _weight_bytes(pipe: Any) -> int:
    """Of the largest denoiser: of two that take turns one is read in each step."""
    sizes = [sum(weight.numel() * weight.element_size() for weight in one.parameters()) for one in denoisers(pipe)]
    return max(sizes, default=0)


def _product_rate(kind: str, device: str, clock: Clock) -> float:
    """Arithmetic per second of a large product of this type."""
    import torch

    side = SIDE[device]
    left = torch.randn(side, side, device=device).to(getattr(torch, kind))
    right = torch.randn(side, side, device=device).to(getattr(torch, kind))
    if kind == FLOAT8:
        one = torch.ones((), device=device)
        product = partial(
            torch._scaled_mm, left, right.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
        )
    else:
        product = partial(torch.mm, left, right, out=torch.empty_like(left))
    return 2.0 * side**3 / _seconds(product, device, clock)


def _copy_rate(clock: Clock) -> float:
    """Bytes read and written per second by a large copy inside the GPU's memory."""
    import torch

    source = torch.ones(COPIED_BYTES, dtype=torch.uint8, device="cuda")
    return 2.0 * COPIED_BYTES / _seconds(partial(torch.empty_like(source).copy_, source), "cuda", clock)


def _seconds(work: Callable[[], object], device: str, clock: Clock) -> float:
    """What work takes on the device, once it is warm; the memory it held is given back."""
    import torch

    def several() -> None:
        for _ in range(CALLS[device]):
            work()

    try:
        with torch.inference_mode():
            samples = [time_call(several, clock)[1] for _ in range(WARM_UP + SAMPLES)][WARM_UP:]
    finally:
        if device == "cuda":
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()
    return median(samples) / CALLS[device]


# ---- arithmetic -----------------------------------------------------------------------------------------------------


def limit_share(
    found: Roofline | None, parts: Components | None, values: Values, baseline: Values, *, other_arithmetic: bool
) -> LimitShare | None:
    """How close a configuration's steps come to the rate that bounds them: that of products, or that of copies, since
    the weights are read in every step. None where it is not known.

    `parts` is of a call of the configuration, `baseline` the untouched pipeline's values, which the count is of.
    With `other_arithmetic` a step of the configuration computes something else than was counted.
    """
    if found is None or parts is None or not parts.denoiser_s or other_arithmetic:
        return None
    step_s = parts.denoiser_s / int(values["steps"])
    shares = []
    kind = PRODUCTS.get(str(values.get("quantization.scheme", "none")), str(values["precision.dtype"]))
    if found.flop_per_step and kind is not None and kind in found.flop_per_s:
        flop_per_s = found.flop_per_step * int(values["batch"]) / step_s
        shares.append(LimitShare(share=flop_per_s / found.flop_per_s[kind], rate=kind))
    if found.weight_bytes and found.copy_bytes_per_s and _has_weights_of(values, baseline):
        shares.append(LimitShare(share=found.weight_bytes / step_s / found.copy_bytes_per_s, rate=COPY))
    return max(shares, key=lambda one: one.share, default=None)


def describe(limit: LimitShare, device: str = "") -> str:
    """`70 % of this GPU's bf16 rate`; without a device `70 % of bf16`."""
    whose = {"cuda": "this GPU's ", "cpu": "this CPU's "}.get(device, "")
    percent = f"{limit.share * 100:.{0 if limit.share >= 0.1 else 2}{'f' if limit.share >= 0.1 else 'g'}} %"
    return f"{percent} of {whose}{NAMES.get(limit.rate, limit.rate)}{' rate' if whose else ''}"


def _has_weights_of(values: Mapping[str, Value], baseline: Mapping[str, Value]) -> bool:
    names = ("precision.dtype", "quantization.scheme", "quantization.gguf_file", "memory.layerwise_casting")
    return all(values.get(name) == baseline.get(name) for name in names)

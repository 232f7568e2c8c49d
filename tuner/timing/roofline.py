"""Roofline: how close a configuration comes to the limits of the device.

The baseline's worker counts the FLOP of a step and measures the rates of the device once per study, which takes
seconds. A rate is what a large matrix product or copy reaches here, under the device's clocks and power limit, and not
the figure of its data sheet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import msgspec

from tuner.numbers import format_number
from tuner.records.codec import Value, Values
from tuner.records.gate import TraceSummary
from tuner.records.machine import Bound, Environment, GpuUse, LimitShare, ProbeState, Roofline
from tuner.records.outcome import Components, Timing
from tuner.timing import rates
from tuner.timing.components import denoisers, patch_calls
from tuner.timing.measure import Clock, CudaClock
from tuner.timing.rates import FLOAT8, FLOAT8_ROW, INT8, RATES_OF_SCHEME
from tuner.timing.shapes import ShapeRecorder, Shapes

T = TypeVar("T")

COPY = "copy"

TYPES = {
    "cuda": ("bfloat16", "float16", "float32", FLOAT8, FLOAT8_ROW, INT8),
    "cpu": ("float32", "bfloat16", INT8),
}
"""The types of the matrix products whose rate is measured."""

OWN_TYPES: Mapping[str, tuple[str, ...]] = {"cuda": (FLOAT8, FLOAT8_ROW, INT8), "cpu": ()}
"""The types, besides the pipeline's own, whose rate is measured for the products of a step, too."""

MIN_CAPABILITY = {FLOAT8: 8.9, FLOAT8_ROW: 9.0, INT8: 7.5}
"""The compute capability that a GPU needs for products of a type."""

COUNTED_STEPS = 2

POWER_CAP = "SW power cap"
"""NVML's reason for a clock that the power limit lowers, see `tuner.hardware.nvml`."""

HOST_BOUND = 0.12
"""A step in which the GPU waits for the host for a larger share is bound by its launches."""

MAX_SHARE = 1.1
"""A larger share of a rate cannot be: something else disturbed the device while the rate was measured."""

NEAR = 0.5
"""A step that reaches less of a rate is not bound by it alone."""

NAMES = {
    "bfloat16": "bf16", "float16": "fp16", "float32": "fp32", FLOAT8: "fp8", FLOAT8_ROW: "fp8 per row", INT8: "int8",
    COPY: "copy",
}  # fmt: skip


# ---- in the worker --------------------------------------------------------------------------------------------------


def measure_roofline(
    generate: Callable[[int], object], pipe: Any, environment: Environment, batch: int,
    state: Callable[[], ProbeState] | None = None,
) -> Roofline:  # fmt: skip
    """Measure what bounds a denoising step of an unmodified pipeline on this device.

    `generate(steps)` makes one call with `batch` images. `state()` reads clock and power of the GPU. A quantity that
    cannot be determined is None, and `unavailable_reasons` says why: none of them is worth losing the baseline.
    """
    device, unavailable_reasons = environment.device, list[str]()
    clock = CudaClock() if device == "cuda" else Clock()

    def attempt(quantity: str, function: Callable[[], T]) -> T | None:
        return _attempt(quantity, unavailable_reasons, function)

    flop = attempt("FLOP of a step", partial(_flop_per_step, generate, pipe)) or {}
    shapes = attempt("shapes of a step", partial(_shapes, generate, pipe)) if flop else None
    own = (_dtype(pipe), *OWN_TYPES[device]) if shapes is not None and shapes.products else ()
    states: dict[str, ProbeState] = {}

    def looking(rate: str) -> dict[str, Any]:
        return {"look": lambda: states.update({rate: state()})} if state is not None else {}

    large = {dtype: partial(rates.product_rate, dtype, device, clock, **looking(dtype)) for dtype in TYPES[device]}
    products = shapes.products if shapes is not None else ()
    of_step = {dtype: partial(rates.product_rate, dtype, device, clock, products) for dtype in own}
    kernels: dict[str, Callable[[], float]] = {}
    if shapes is not None and shapes.attention is not None and device == "cuda":
        kernels = {name: partial(rates.attention_s, name, shapes.attention, device, clock) for name in rates.KERNELS}
    copies = partial(rates.copy_rate, clock, **looking(COPY))
    copy_rate = attempt("rate of copies", copies) if device == "cuda" else None
    return Roofline(
        flop_per_step=sum(flop.values()) / batch if flop else None,
        flop_by_class={name: count / batch for name, count in flop.items()},
        weight_bytes=_weight_bytes(pipe) or None,
        flop_per_s=_known(attempt, "rate of", large, environment),
        step_flop_per_s=_known(attempt, "rate of the step's products in", of_step, environment),
        attention_s=_known(attempt, "attention by", kernels, environment),
        copy_bytes_per_s=copy_rate,
        states=states,
        unavailable_reasons=tuple(unavailable_reasons),
    )


def _known(
    attempt: Callable[[str, Callable[[], float]], float | None], quantity: str,
    measurements: Mapping[str, Callable[[], float]], environment: Environment,
) -> dict[str, float]:  # fmt: skip
    """Measure what this device can do, and return what was measured by name."""
    capability = float(environment.compute_capability or 0)
    possible = {
        name: measure
        for name, measure in measurements.items()
        if environment.device == "cpu" or capability >= MIN_CAPABILITY.get(name, 0.0)
    }
    found = {name: attempt(f"{quantity} {NAMES.get(name, name)}", measure) for name, measure in possible.items()}
    return {name: value for name, value in found.items() if value is not None}


def _attempt(quantity: str, unavailable_reasons: list[str], function: Callable[[], T]) -> T | None:
    try:
        return function()
    except Exception as error:
        message = (str(error).strip().splitlines() or [""])[0]
        unavailable_reasons.append(f"{quantity}: {type(error).__name__}: {message}"[:200])
        return None


def _flop_per_step(generate: Callable[[int], object], pipe: Any) -> dict[str, float]:
    """Count the denoiser's FLOP per step by class with torch.utils.flop_counter. Attention counts as two products."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    counted: Counter[str] = Counter()

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    def counting(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            # torch has no formula for the attention of a CPU.
            formulas = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
            with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
                result = original(*arguments, **named)
            for operator, flop in counter.get_flop_counts().get("Global", {}).items():
                counted[_class_of(str(operator))] += flop
            return result

        return call

    with patch_calls(denoisers(pipe), counting):
        generate(COUNTED_STEPS)
    return {name: flop / COUNTED_STEPS for name, flop in counted.items()}


def _class_of(operator: str) -> str:
    """Return the class of an operator that computes FLOP, as traces class kernels."""
    known = {"attention": "attention", "conv": "convolution"}
    return next((name for part, name in known.items() if part in operator), "GEMM")


def _shapes(generate: Callable[[int], object], pipe: Any) -> Shapes:
    """Return the shapes of the denoiser's products and attention."""
    recorder = ShapeRecorder()
    with patch_calls(denoisers(pipe), recorder.around):
        generate(COUNTED_STEPS)
    return recorder.shapes()


def _dtype(pipe: Any) -> str:
    """Return the type of the denoiser's weights."""
    return str(next(iter(denoisers(pipe)[0].parameters())).dtype).removeprefix("torch.")


def _weight_bytes(pipe: Any) -> int:
    """Return the bytes of the largest denoiser's weights. Of two denoisers each step reads only one."""
    weights = [list(denoiser.parameters()) for denoiser in denoisers(pipe)]
    sizes = [sum(weight.numel() * weight.element_size() for weight in of_one) for of_one in weights]
    return max(sizes, default=0)


# ---- anywhere -------------------------------------------------------------------------------------------------------


def limit_share(
    found: Roofline | None, parts: Components | None, values: Values, baseline: Values, *, other_arithmetic: bool
) -> LimitShare | None:
    """Return how close the steps of a configuration come to the rate that bounds them, or None if it cannot be told.

    The rate is that of matrix products, or that of copies, since every step reads all weights. `parts` are the timed
    components of one call of the configuration. `baseline` holds the values of the unmodified pipeline, for which the
    FLOP were counted; with `other_arithmetic` a step of the configuration computes something else.
    """
    if found is None or parts is None or not parts.denoiser_s or other_arithmetic:
        return None
    step_s = parts.denoiser_s / int(values["steps"])
    shares = []
    types = RATES_OF_SCHEME.get(str(values.get("quantization.scheme", "none")), (str(values["precision.dtype"]),))
    dtype = next((name for name in types if name in found.flop_per_s), None)
    if found.flop_per_step and dtype is not None:
        flop_per_s = found.flop_per_step * int(values["batch"]) / step_s
        shares.append(LimitShare(share=flop_per_s / found.flop_per_s[dtype], rate=dtype))
    if found.weight_bytes and found.copy_bytes_per_s and _has_weights_of(values, baseline):
        shares.append(LimitShare(share=found.weight_bytes / step_s / found.copy_bytes_per_s, rate=COPY))
    largest = max(shares, key=lambda limit: limit.share, default=None)
    return None if largest is None or largest.share > MAX_SHARE else largest


def with_bound(limit: LimitShare, timing: Timing | None, trace: TraceSummary | None) -> LimitShare:
    """Add what limits the step: launches, power, or the rate itself, and the clock and power that were seen.

    Launches, if the GPU waits for the host in more than an eighth of the step. Power, if its cap lowered the clock in
    most of the timed calls: then every byte and product that is left out counts, whatever its share of the rate.
    """
    gpu = (timing.gpu if timing is not None else None) or GpuUse()
    waits = trace.host_wait_share if trace is not None else None
    bound: Bound | None = None
    if waits is not None and waits > HOST_BOUND:
        bound = "launches"
    elif gpu.calls and 2 * (gpu.events or {}).get(POWER_CAP, 0) > gpu.calls:
        bound = "power"
    elif limit.share >= NEAR:
        bound = "memory" if limit.rate == COPY else "compute"
    return msgspec.structs.replace(limit, bound=bound, sm_clock_mhz=gpu.sm_clock_mhz, power_w=gpu.power_w)


def describe_bound(limit: LimitShare) -> str:
    """Format as `bound by power: 1650 MHz, 687 W`, as far as it is known."""
    state = describe_state(ProbeState(sm_clock_mhz=limit.sm_clock_mhz, power_w=limit.power_w))
    return ": ".join(filter(None, (f"bound by {limit.bound}" if limit.bound else "", state)))


def describe_state(state: ProbeState) -> str:
    """Format as `1650 MHz, 687 W, at the power cap`, as far as it is known."""
    known = (
        f"{state.sm_clock_mhz:.0f} MHz" if state.sm_clock_mhz is not None else "",
        f"{state.power_w:.0f} W" if state.power_w is not None else "",
        "at the power cap" if state.is_capped else "",
    )
    return ", ".join(filter(None, known))


def describe(limit: LimitShare, device: str = "") -> str:
    """Format as `70 % of this GPU's bf16 rate`, or `70 % of bf16` without a device."""
    whose = {"cuda": "this GPU's ", "cpu": "this CPU's "}.get(device, "")
    percent = f"{format_number(limit.share * 100, 2)} %"
    return f"{percent} of {whose}{NAMES.get(limit.rate, limit.rate)}{' rate' if whose else ''}"


def _has_weights_of(values: Mapping[str, Value], baseline: Mapping[str, Value]) -> bool:
    names = ("precision.dtype", "quantization.scheme", "quantization.gguf_file", "memory.layerwise_casting")
    return all(values.get(name) == baseline.get(name) for name in names)

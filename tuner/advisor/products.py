"""Effects on matrix products: their type, how many bits weights have, and how near they come to the device's rate."""

from __future__ import annotations

from tuner.advisor.call import (
    ATTENTION,
    CONVOLUTIONS,
    COPIES,
    ELEMENTWISE,
    HOST,
    IDLE,
    PRODUCTS,
    STEP_PARTS,
    Change,
    product_flop_per_s,
)
from tuner.advisor.effects import MARGIN, Effect, EffectOf, Facts, change, of_each, percent
from tuner.knobs.graphs import replays_cuda_graphs
from tuner.numbers import format_number, rounded
from tuner.records.codec import Value
from tuner.timing.rates import FLOAT8, FLOAT8_ROW, INT8, RATES_OF_SCHEME

NAMES = {FLOAT8: "fp8", INT8: "int8", FLOAT8_ROW: "fp8 with a scale for each row"}

JOINT = ("Flux", "SD3", "StableDiffusion3", "Qwen", "Hunyuan", "ZImage", "CogVideo", "Chroma", "Lumina", "Ideogram")
"""Pipelines whose denoisers attend to text and image tokens together, and multiply both by their weights."""

QUANTIZED = 0.97
"""The share of the products' time in layers that are quantized (see `quantizable`)."""

SCALING = {
    "fp8-dynamic-row": (1.03, 1.0, 1.16, 1.0), "fp8-dynamic-tensor": (1.17, 1.0, 1.44, 1.0),
    "fp8-static-tensor": (0.9, 0.75, 1.1, 0.7), "int8-dynamic": (1.6, 1.0, 2.3, 1.0),
}  # fmt: skip
"""What remains of fused element-wise work when activations are quantized: a scale of the whole tensor takes one more
pass, int8 products leave 32 bits to be scaled, and with static scales 8 bits are written instead of 16."""

WRAPPED_S = {
    "fp8-weight-only": 30e-6, "int8-weight-only": 18e-6, "fp8-dynamic-row": 19e-6, "fp8-dynamic-tensor": 57e-6,
    "int8-dynamic": 65e-6, "fp8-static-tensor": 2e-6,
}  # fmt: skip
"""Seconds that torchao's tensors cost the host for each product, measured on SDXL in regional compile on an H200. Those
of static scales, whose layers are plain, are assumed."""

WEIGHT_ONLY = {
    "fp8-weight-only": (1.08, 0.98, 1.3, 0.5), "int8-weight-only": (1.06, 0.98, 1.3, 0.5),
    "int4-weight-only": (25.0, 2.0, 40.0, 0.25), "bnb-nf4": (1.4, 1.05, 3.0, 0.25), "quanto-int8": (1.3, 1.0, 3.0, 0.5),
}  # fmt: skip
"""Schemes whose products stay in the pipeline's type: what remains of their time, and the weights' bytes. int4's kernel
is for few rows, and a denoiser multiplies thousands."""

UNMEASURED = {"mxfp8": (0.6, 0.45, 1.0, 0.4), "nvfp4": (0.4, 0.25, 1.0, 0.2)}
"""Schemes of Blackwell, whose products are up to two and four times as fast as bfloat16's by its data sheet."""


def rate_of(facts: Facts, dtype: str) -> float | None:
    """Return the rate of a type's products on this device: of the step's own, if measured, else of large ones.

    TF32's is about half of bfloat16's.
    """
    if dtype == "tf32":
        half = rate_of(facts, "bfloat16")
        return half / 2 if half else None
    return facts.roofline.step_flop_per_s.get(dtype, facts.roofline.flop_per_s.get(dtype))


def reached(facts: Facts) -> float | None:
    """Return the FLOP per second that the products of the call without the value reach, or None if unknown."""
    values = facts.without
    return product_flop_per_s(facts.call, facts.roofline, int(values["steps"]), int(values["batch"]))


def to_peak(facts: Facts, factor: float, low: float, high: float) -> Change:
    """Return the change of products that better kernels may bring to the device's rate, but not beyond."""
    rate, dtype = reached(facts), str(facts.without["precision.dtype"])
    peaks = [rates[dtype] for rates in (facts.roofline.flop_per_s, facts.roofline.step_flop_per_s) if dtype in rates]
    least = 0.3 if rate is None or not peaks else min(1.0, rate / (max(peaks) * MARGIN))
    low = max(low, least)
    return change(PRODUCTS, max(factor, low), low, max(high, low), least)


def flops(flop_per_s: float) -> str:
    """Format a rate in TFLOP/s, or in GFLOP/s below one."""
    scale, unit = (1e12, "TFLOP/s") if flop_per_s >= 1e12 else (1e9, "GFLOP/s")
    return f"{format_number(rounded(flop_per_s / scale, 3))} {unit}"


def scheme(value: Value, facts: Facts) -> Effect:
    """Return the effect of products in 8 bits, or of smaller weights."""
    name, also = str(value), "less memory"
    if name in WEIGHT_ONLY:
        return _weight_only(name, facts)
    if name in UNMEASURED:
        factor, low, high, least = UNMEASURED[name]
        return Effect("its products were not measured here", (change(PRODUCTS, factor, low, high, least),), also)
    if name not in SCALING:
        return Effect("it is never offered")
    known = [rate for rate in RATES_OF_SCHEME[name] if rate_of(facts, rate)]
    now = reached(facts) or rate_of(facts, str(facts.without["precision.dtype"]))
    overhead = (change(ELEMENTWISE, *SCALING[name]), _wrapped(name, facts))
    if not known or not now:
        changes = (change(PRODUCTS, 1.4, 0.6, 2.2, least=0.4), *overhead)
        return Effect("the rate of its products is not known here", changes, also)
    rate = rate_of(facts, known[0]) or now
    factor, low, high, least = (1 - QUANTIZED + QUANTIZED * now / (rate * scale) for scale in (1.0, 1.06, 0.85, MARGIN))
    changes = (change(PRODUCTS, factor, low, high, least), *overhead)
    type_name = str(facts.without["precision.dtype"])
    return Effect(
        f"they run at {flops(now)} in {type_name}, and {NAMES[known[0]]} reaches {flops(rate)} here", changes, also
    )


def _wrapped(name: str, facts: Facts) -> Change:
    """Return the change of the host's time: torchao's tensors take part in Python at each product."""
    if replays_cuda_graphs(facts.values):  # which run no Python
        return change(HOST, 1.0, 1.0, 1.0)
    added_s = WRAPPED_S.get(name, 40e-6) * facts.call.product_calls * facts.call.host_slowness
    if not facts.on_gpu or not facts.call.host_s:
        return change(HOST, 1.0, 1.0, 1.0)
    factor, low, high = (1 + added_s * scale / facts.call.host_s for scale in (1.0, 0.4, 1.8))
    return change(HOST, factor, low, high, 1.0)


def _weight_only(name: str, facts: Facts) -> Effect:
    """Return the effect of smaller weights, which are read faster and widened before each product."""
    factor, low, high, bytes_left = WEIGHT_ONLY[name]
    copies, size = facts.roofline.copy_bytes_per_s, facts.roofline.weight_bytes
    # A copy reads and writes: reading alone is as fast.
    reading_s = size / copies * int(facts.without["steps"]) if copies and size else 0.0
    share = min(1.0, reading_s / max(facts.call.parts[PRODUCTS], 1e-12)) if facts.on_gpu else 1.0
    least = 1 - share * (1 - bytes_left)
    changes = (change(PRODUCTS, factor, min(1.0, max(low, least)), high, least), _wrapped(name, facts))
    return Effect(
        f"weights are widened before each product, and reading them is {percent(share)} of the products' time", changes,
        "less memory",
    )  # fmt: skip


def dtype(value: Value, facts: Facts) -> Effect:
    """Return the effect of another type: products at its rate, other bytes everywhere else."""
    name, own = str(value), str(facts.without["precision.dtype"])
    new, now = rate_of(facts, name), rate_of(facts, own)
    wider = (4 if name == "float32" else 2) / (4 if own == "float32" else 2)
    if new is None or now is None:
        return Effect("the rates of these types are not known", (change(PRODUCTS, wider, wider / 4, wider * 8),))
    slower = now / new
    if wider == 1:  # both have 16 bits: the probe's clock differs more than the kernels
        products = change(
            PRODUCTS, 1 + (slower - 1) / 3, 0.97, max(1.0, slower) + 0.05, least=min(1.0, slower) / MARGIN
        )
        other = [change(part, 1.0, 0.97, 1.05, 0.95) for part in (ELEMENTWISE, ATTENTION, CONVOLUTIONS)]
    else:
        spread = (slower, slower / 1.6, slower * 1.4)
        products = change(PRODUCTS, *spread, least=slower / 2)
        other = [change(part, wider, wider / 1.5, wider * 1.5, wider / 2) for part in (ELEMENTWISE, COPIES)]
        other.append(change(ATTENTION, *spread, least=slower / 4))
        other.append(change(CONVOLUTIONS, wider * 1.1, min(wider, slower) / 1.5, max(wider, slower), wider / 4))  # TF32
    text = f"large products reach {flops(now)} in {own} and {flops(new)} in {name}"
    return Effect(text, (products, *other), "other rounding" if wider == 1 else "")


def tf32(value: Value, facts: Facts) -> Effect:
    """Return the effect of float32 products on tensor cores."""
    now, new = rate_of(facts, "float32"), rate_of(facts, "tf32")
    if not now or not new:
        return Effect("tensor cores multiply TF32", (change(PRODUCTS, 0.25, 0.1, 0.6, least=0.06),))
    factor = now / new
    changes = (
        change(PRODUCTS, factor, factor / 2, factor * 2, least=factor / 2.5),
        change(CONVOLUTIONS, 1.0, factor, 1.0, least=factor / 2),  # cuDNN uses TF32 without it
    )
    return Effect(f"float32 products reach {flops(now)}, in TF32 about {flops(new)}", changes)


def fuse_qkv(value: Value, facts: Facts) -> Effect:
    """Return the effect of one product instead of three; uncompiled, its result is copied apart."""
    compiled = facts.values.get("compile.scope", "none") != "none"
    is_copied = not compiled and facts.architecture.pipeline_class.startswith(JOINT)
    copies = (1.1, 0.95, 1.2) if is_copied else (1.0, 0.95, 1.05)
    changes = (
        to_peak(facts, 0.985, 0.95, 1.02), change(ELEMENTWISE, *copies, least=0.95), change(IDLE, 0.97, 0.8, 1.05, 0.7),
        change(HOST, 0.95, 0.85, 1.0, least=0.7),
    )  # fmt: skip
    copied = ", which is copied" if is_copied else ""
    return Effect(f"one product of three has fewer launches, its result is split again{copied}", changes)


def fuse_input(value: Value, facts: Facts) -> Effect:
    """Return the effect of one product instead of four on the input of a single-stream block."""
    changes = (
        to_peak(facts, 0.99, 0.95, 1.02), change(ELEMENTWISE, 0.99, 0.93, 1.05, least=0.9),
        change(HOST, 0.95, 0.85, 1.0, least=0.7),
    )  # fmt: skip
    return Effect("one product of four has fewer launches, and its input is quantized once", changes)


def split_output(value: Value, facts: Facts) -> Effect:
    """Return the effect of two products whose inputs are not copied into one tensor."""
    changes = (
        change(PRODUCTS, 1.0, 0.97, 1.04, least=0.95), change(ELEMENTWISE, 0.96, 0.88, 1.02, least=0.8),
        change(HOST, 1.01, 0.98, 1.05, least=0.95),
    )  # fmt: skip
    return Effect("attention and MLP are not copied into one tensor, and two outputs are added", changes)


def modulation_once(value: Value, facts: Facts) -> Effect:
    """Return the effect of leaving the products of one row an image out of the steps."""
    changes = (
        change(PRODUCTS, 0.975, 0.94, 1.0, least=0.88), change(IDLE, 0.95, 0.8, 1.05, least=0.6),
        change(HOST, 0.93, 0.8, 1.0, least=0.6),
    )  # fmt: skip
    return Effect("the products of one row an image, which read as many weights as others, leave the steps", changes)


def layerwise_casting(value: Value, facts: Facts) -> Effect:
    """Return the effect of weights that kernels of their own widen in every step."""
    size, rate, call = facts.roofline.weight_bytes, facts.roofline.copy_bytes_per_s, facts.call
    widening_s = 3.4 * 1.5 * size / rate * int(facts.without["steps"]) if size and rate else 0.2 * call.seconds
    added = widening_s / max(call.parts[ELEMENTWISE], 1e-9)
    grown = of_each(lambda scale: 1 + scale * added, (1.0, 0.3, 2.0))
    changes = (change(ELEMENTWISE, *grown, least=1.0), change(HOST, 1.8, 1.2, 2.5, least=1.0))
    return Effect("each layer's weights are widened before it runs, in every step", changes, "less memory")


HOST_LINK, COPY_S = 46e9, 0.25e-3
"""Bytes per second from the host's memory to an H200, and seconds of each layer besides."""


def group_offload(value: Value, facts: Facts) -> Effect:
    """Return the effect of copying all weights from the host's memory in every step."""
    size, call = facts.roofline.weight_bytes or 0, facts.call
    copying_s = size / HOST_LINK * int(facts.without["steps"]) + COPY_S * call.product_calls
    times = copying_s / max(call.steps_s, 1e-9)
    factors = of_each(lambda scale: max(1.02, scale * times), (1.0, 0.5, 4.0))
    changes = tuple(change(part, *factors, least=1.0) for part in (*STEP_PARTS, HOST))
    return Effect(f"{size / 1e9:.1f} GB of weights cross from the host's memory in every step", changes, "less memory")


PRODUCT_EFFECTS: dict[str, EffectOf] = {
    "precision.dtype": dtype,
    "matmul.tf32": tf32,
    "quantization.scheme": scheme,
    "quantization.gguf_file": lambda value, facts: Effect(
        "packed weights are unpacked before each product", (change(PRODUCTS, 1.3, 1.0, 3.0, least=1.0),), "less memory"
    ),
    "fuse_qkv": fuse_qkv,
    "single_blocks.fuse_input": fuse_input,
    "single_blocks.split_output": split_output,
    "modulation.once": modulation_once,
    "memory.layerwise_casting": layerwise_casting,
    "memory.group_offload": group_offload,
}
"""The effects of the knobs that change products or weights."""

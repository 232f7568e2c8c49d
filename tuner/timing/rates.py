"""Rates that a device reaches: matrix products by type, copies, attention kernels. In the worker."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from tuner.timing.measure import Clock, time_call
from tuner.timing.shapes import Attention, Product

FLOAT8, FLOAT8_ROW, INT8 = "float8_e4m3fn", "float8_e4m3fn per row", "int8"
"""Types of products that are scaled afterwards: fp8 with a scale for a tensor or for each row, int8."""

RATES_OF_SCHEME: Mapping[str, tuple[str, ...]] = {
    "fp8-dynamic-row": (FLOAT8_ROW, FLOAT8), "fp8-dynamic-tensor": (FLOAT8,), "fp8-static-tensor": (FLOAT8,),
    "int8-dynamic": (INT8,), "mxfp8": (), "nvfp4": (),
}  # fmt: skip
"""The rates that tell of the products of a quantization scheme with another type than `precision.dtype`, the best one
first. Those of Blackwell's types are not measured."""

SIDE = {"cuda": 8192, "cpu": 512}
"""Rows and columns of the multiplied matrices, where no shape is given."""

COPIED_BYTES = 1 << 30
"""Far more than the cache of a GPU holds. A CPU times no copy, which would count as memory of the pipeline."""

CALLS = {"cuda": 10, "cpu": 1}
"""Products or copies in one sample: enough that a GPU does not wait for the next launch."""

WARM_UP, SAMPLES = 2, 7

HOLD_S = {"cuda": 0.5, "cpu": 0.0}
"""How long a large product or copy runs before it is timed. An H200 lowers its clock under its power cap; an idle, cool
one is up to 8 % faster than in a long run. Rates after 0.5 and after 1.5 s were within 4 % of each other, and so were
those of two machines (docs/benchmarks.md)."""

LOOK_S = {"cuda": 0.2, "cpu": 0.0}
"""How long the work takes that is queued while clock and power are read. NVML answers in milliseconds."""

LIMIT_S = 2.0
"""How long the samples of a rate may take. A CPU without instructions for a type multiplies a hundred times slower."""

KERNELS = {
    "native": (),
    "_native_flash": ("FLASH_ATTENTION",),
    "_native_cudnn": ("CUDNN_ATTENTION",),
    "_native_efficient": ("EFFICIENT_ATTENTION",),
}
"""diffusers' names of torch's attention kernels, and torch's; `native` is torch's own choice."""


def product_rate(
    dtype: str, device: str, clock: Clock, shapes: Sequence[Product] = (), look: Callable[[], None] | None = None
) -> float:
    """Measure the FLOP per second of matrix products of a type: of these shapes, or of one that is large.

    The large one is held until the GPU's clock has settled. `look` is called while it still runs.
    """
    side = SIDE[device]
    products = shapes or (Product(side, side, side),)
    hold_s = 0.0 if shapes else HOLD_S[device]
    seconds = [
        shape.count * seconds_of(multiplication(dtype, shape, device), device, clock, hold_s, look)
        for shape in products
    ]
    return sum(shape.count * shape.flop for shape in products) / sum(seconds)


def multiplication(dtype: str, shape: Product, device: str) -> Callable[[], object]:
    """Return a function that multiplies matrices of a shape in a type."""
    import torch

    left = torch.randn(shape.rows, shape.inner, device=device)
    right = torch.randn(shape.columns, shape.inner, device=device)
    if dtype == INT8:
        return partial(torch._int_mm, left.to(torch.int8), right.to(torch.int8).t())
    if dtype in (FLOAT8, FLOAT8_ROW):
        is_row = dtype == FLOAT8_ROW
        scales = {
            "scale_a": torch.ones((shape.rows, 1) if is_row else (), device=device),
            "scale_b": torch.ones((1, shape.columns) if is_row else (), device=device),
        }
        eight = torch.float8_e4m3fn
        return partial(
            torch._scaled_mm, left.to(eight), right.to(eight).t(), out_dtype=torch.bfloat16, use_fast_accum=True,
            **scales,
        )  # fmt: skip
    left, right = left.to(getattr(torch, dtype)), right.to(getattr(torch, dtype)).t()
    return partial(torch.mm, left, right, out=left.new_empty(shape.rows, shape.columns))


def copy_rate(clock: Clock, look: Callable[[], None] | None = None) -> float:
    """Measure the bytes per second that a large copy within the GPU's memory reads and writes, when it is held."""
    import torch

    source = torch.ones(COPIED_BYTES, dtype=torch.uint8, device="cuda")
    copy = partial(torch.empty_like(source).copy_, source)
    return 2.0 * COPIED_BYTES / seconds_of(copy, "cuda", clock, HOLD_S["cuda"], look)


def attention_s(backend: str, shape: Attention, device: str, clock: Clock) -> float:
    """Measure the seconds of one attention of a shape by a kernel of torch. Raises RuntimeError if it cannot do it."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    dtype = getattr(torch, shape.dtype)
    query, key, value = (torch.randn(size, device=device).to(dtype) for size in (shape.query, shape.key, shape.key))
    names = KERNELS[backend]
    kernels: Any = sdpa_kernel([getattr(SDPBackend, name) for name in names]) if names else contextlib.nullcontext()
    with kernels:
        return seconds_of(partial(scaled_dot_product_attention, query, key, value), device, clock)


def seconds_of(
    work: Callable[[], object], device: str, clock: Clock, hold_s: float = 0.0,
    look: Callable[[], None] | None = None,
) -> float:  # fmt: skip
    """Return the seconds that work takes on the device when it has run for `hold_s`, and release the memory it held."""
    import torch

    try:
        with torch.inference_mode():
            return _seconds_of_several(work, device, clock, hold_s, look) / CALLS[device]
    finally:
        if device == "cuda":
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()


def _seconds_of_several(
    work: Callable[[], object], device: str, clock: Clock, hold_s: float, look: Callable[[], None] | None
) -> float:
    """Return the seconds of a sample, on a GPU replayed from a CUDA graph, whose memory is free afterwards."""

    def in_turn() -> None:
        for _ in range(CALLS[device]):
            work()

    several = captured(in_turn) if device == "cuda" else in_turn
    until = time.monotonic() + hold_s
    while time.monotonic() < until:
        time_call(several, clock)
    seconds = median(_samples(several, clock))
    if look is not None:
        for _ in range(1 + int(LOOK_S[device] / seconds)):
            several()  # only queued: the device works while it is looked at
        look()
        clock.synchronize()
    return seconds


def captured(work: Callable[[], None]) -> Callable[[], None]:
    """Return a replay of work as a CUDA graph.

    A product of SDXL takes 10 microseconds, and a slow host takes longer to launch it.
    """
    import torch

    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # kernels are loaded and workspaces set up outside the capture
        work()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        work()
    replay: Callable[[], None] = graph.replay
    return replay


def _samples(work: Callable[[], object], clock: Clock) -> list[float]:
    """Return the seconds of several calls after the warm-up, at least those of a second call."""
    until = time.monotonic() + LIMIT_S
    samples: list[float] = []
    while len(samples) < 2 or (len(samples) < WARM_UP + SAMPLES and time.monotonic() < until):
        samples.append(time_call(work, clock)[1])
    return samples[min(WARM_UP, len(samples) - 1) :]

"""Attention in fp8 by cuDNN, beside torch's kernels, at the shapes of published denoisers.

`python tests/bench_fp8_attention.py` needs a GPU of compute capability 9.0 or more, and the package
nvidia-cudnn-frontend. Calls follow each other for a second, so that the GPU is at the clock that it holds; a row is the
median of the means of ten calls in its second half. Where a kernel takes less than some 50 microseconds this is the
host's time. `with conversion` is what a denoiser would call: from bfloat16 to bfloat16, compiled. The error is that of
the output against float32's, relative to its norm.

No knob uses it yet: this shows whether one would gain.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from statistics import median
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

HOLD_S = 1.0
LARGEST = torch.finfo(torch.float8_e4m3fn).max
SOFTMAX_SCALE = 256.0
"""Probabilities are at most 1."""


@dataclass(frozen=True)
class Shape:
    """Batch, tokens, heads and the size of a head."""

    batch: int
    tokens: int
    heads: int
    size: int

    @property
    def flop(self) -> float:
        return 4.0 * self.batch * self.heads * self.tokens**2 * self.size


SHAPES = {
    "FLUX.1, 1024x1024": Shape(1, 4608, 24, 128),
    "the same, batch 4": Shape(4, 4608, 24, 128),
    "Wan 2.1 1.3B, 480x832, 81 frames": Shape(1, 32760, 12, 128),
    "SDXL, 1024x1024, 64x64 level": Shape(2, 4096, 10, 64),
    "SDXL, 1024x1024, 32x32 level": Shape(2, 1024, 20, 64),
}


class Plan:
    """cuDNN's graph for one shape. Hopper gives its output in fp8, too."""

    def __init__(self, shape: tuple[int, ...], scale: float, device: torch.device) -> None:
        import cudnn

        batch, tokens, heads, size = shape
        number, one = cudnn.data_type.FP8_E4M3, {"dim": [1] * 4, "stride": [1] * 4, "data_type": cudnn.data_type.FLOAT}
        dim, stride = [batch, heads, tokens, size], [tokens * heads * size, size, heads * size, 1]
        self.cudnn = cudnn
        self.handle = cudnn.create_handle()
        self.graph = cudnn.pygraph(
            io_data_type=number, intermediate_data_type=cudnn.data_type.FLOAT, compute_data_type=cudnn.data_type.FLOAT,
            handle=self.handle,
        )  # fmt: skip
        self.inputs = [self.graph.tensor(name=name, dim=dim, stride=stride, data_type=number) for name in "qkv"]
        names = ("descale_q", "descale_k", "descale_v", "descale_s", "scale_s", "scale_o")
        self.scales = [self.graph.tensor(name=name, **one) for name in names]
        output, _, *largest = self.graph.sdpa_fp8(
            **dict(zip("qkv", self.inputs, strict=True)), **dict(zip(names, self.scales, strict=True)),
            attn_scale=scale, generate_stats=False, use_causal_mask=False, name="attention",
        )  # fmt: skip
        output.set_output(True).set_dim(dim).set_stride(stride)
        for each in largest:
            each.set_output(True).set_dim([1] * 4).set_stride([1] * 4).set_data_type(cudnn.data_type.FLOAT)
        self.outputs = [output, *largest]
        self.graph.validate()
        self.graph.build_operation_graph()
        self.graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        self.graph.check_support()
        self.graph.build_plans()
        self.softmax = [torch.full((1, 1, 1, 1), value, device=device) for value in (1 / SOFTMAX_SCALE, SOFTMAX_SCALE)]
        self.workspace_bytes = max(self.graph.get_workspace_size(), 1)

    def run(self, q: Any, k: Any, v: Any, descales: Sequence[Any], scale_o: Any) -> Any:
        self.cudnn.set_stream(handle=self.handle, stream=torch.cuda.current_stream().cuda_stream)
        output = torch.empty_like(q)
        largest = [torch.empty(1, 1, 1, 1, device=q.device) for _ in range(2)]
        given = [q, k, v, *descales, *self.softmax, scale_o]
        tensors = dict(zip([*self.inputs, *self.scales, *self.outputs], [*given, output, *largest], strict=True))
        workspace = torch.empty(self.workspace_bytes, dtype=torch.uint8, device=q.device)
        self.graph.execute(tensors, workspace, handle=self.handle)
        return output


@cache
def plan(shape: tuple[int, ...], scale: float, device: torch.device) -> Plan:
    return Plan(shape, scale, device)


@torch.library.custom_op("bench::fp8_attention", mutates_args=())
def fp8_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, descale_q: torch.Tensor, descale_k: torch.Tensor,
    descale_v: torch.Tensor, scale_o: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Attend, given (batch, tokens, heads, size) in fp8."""
    return plan(tuple(q.shape), 1 / math.sqrt(q.shape[-1]), q.device).run(
        q, k, v, (descale_q, descale_k, descale_v), scale_o
    )


@fp8_attention.register_fake
def _(q: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(q)


def with_conversion(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attend in fp8, with the scales of whole tensors. An output is at most as large as the largest value."""
    scales = [(each.abs().amax().float() / LARGEST).clamp_min(1e-6).reshape(1, 1, 1, 1) for each in (q, k, v)]
    packed = [(each / scale).to(torch.float8_e4m3fn) for each, scale in zip((q, k, v), scales, strict=True)]
    return (fp8_attention(*packed, *scales, 1 / scales[2]).float() * scales[2]).to(q.dtype)


def unscaled(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attend in fp8 without scales: queries and keys that were normalized are of its size."""
    one = torch.ones(1, 1, 1, 1, device=q.device)
    packed = [each.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn) for each in (q, k, v)]
    return fp8_attention(*packed, one, one, one, one).to(q.dtype)


def of_torch(backend: SDPBackend) -> Callable[..., torch.Tensor]:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(*(each.transpose(1, 2) for each in (q, k, v))).transpose(1, 2)

    return attend


def seconds(call: Callable[[], Any]) -> float:
    """Return the median of the means of ten calls that follow each other, of the second half of a second."""
    call()
    torch.cuda.synchronize()
    found, until = [], time.monotonic() + HOLD_S
    while time.monotonic() < until:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(10):
            call()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1e4)
    return median(found[len(found) // 2 :])


def kernels() -> dict[str, Callable[..., torch.Tensor]]:
    """Return what is compared, each called with (batch, tokens, heads, size) in bfloat16."""
    torch.compiler.reset()
    return {
        "cuDNN, bfloat16": of_torch(SDPBackend.CUDNN_ATTENTION),
        "flash, bfloat16": of_torch(SDPBackend.FLASH_ATTENTION),
        "fp8, with conversion": torch.compile(with_conversion, dynamic=False),
        "fp8, unscaled": torch.compile(unscaled, dynamic=False),
        "fp8, kernel alone": converted_before,
    }


def converted_before(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attend in fp8, with inputs that were converted once."""
    one, packed = constants(q, k, v)
    return fp8_attention(*packed, one, one, one, one)


@cache
def constants(*given: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    return torch.ones(1, 1, 1, 1, device="cuda"), [each.to(torch.float8_e4m3fn) for each in given]


def measure(shape: Shape) -> Iterator[tuple[str, str]]:
    """Yield the name of each kernel with the cells of its row."""
    generator = torch.Generator("cuda").manual_seed(0)
    size = (shape.batch, shape.tokens, shape.heads, shape.size)
    q, k, v = (torch.randn(size, device="cuda", dtype=torch.bfloat16, generator=generator) for _ in range(3))
    q, k = 2.0 * q, 2.0 * k  # sharper than uniform attention, as in trained models
    some = slice(0, min(shape.tokens, 512))
    exact = scaled_dot_product_attention(*(each.float().transpose(1, 2) for each in (q[:, some], k, v))).transpose(1, 2)
    for name, attend in kernels().items():
        try:
            error = float((attend(q, k, v)[:, some].float() - exact).norm() / exact.norm())
            took_s = seconds(partial(attend, q, k, v))
        except Exception as problem:  # each kernel by itself
            text = " ".join(str(problem).split()).replace("|", "/")
            yield name, f"{type(problem).__name__}: {text[:200]} | | |"
        else:
            yield name, f"{took_s * 1e3:.3f} | {shape.flop / took_s / 1e12:.0f} | {error:.2%} |"
    constants.cache_clear()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    print("| shape | kernel | ms | TFLOP/s | error |\n| --- | --- | --- | --- | --- |", flush=True)
    with torch.no_grad():
        for title, shape in SHAPES.items():
            for name, cells in measure(shape):
                print(f"| {title} | {name} | {cells}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

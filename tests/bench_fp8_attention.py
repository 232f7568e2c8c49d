"""Attention in fp8 by cuDNN, beside torch's kernels, at the shapes of published denoisers.

`python tests/bench_fp8_attention.py` needs a GPU of compute capability 9.0 or more, and the package
nvidia-cudnn-frontend. Calls follow each other for a second, so that the GPU is at the clock that it holds; a row is the
median of the means of ten calls in its second half. Where a kernel takes less than some 50 microseconds this is the
host's time. `cudnn_fp8` is what the knob attention.backend has a denoiser call: from bfloat16 to bfloat16, compiled.
The error is that of the output against float32's, relative to its norm.
"""

from __future__ import annotations

import argparse
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

from tuner.knobs import fp8_attention

HOLD_S = 1.0


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


def kernels(shape: Shape) -> dict[str, Callable[..., torch.Tensor]]:
    """Return what is compared, each called with (batch, tokens, heads, size) in bfloat16.

    In fp8 also the shapes that the knob leaves to torch.
    """
    torch.compiler.reset()
    in_fp8 = partial(fp8_attention.attend, min_keys=0, head_size=shape.size)
    return {
        "cuDNN, bfloat16": of_torch(SDPBackend.CUDNN_ATTENTION),
        "flash, bfloat16": of_torch(SDPBackend.FLASH_ATTENTION),
        "cudnn_fp8": torch.compile(in_fp8, dynamic=False),
        "cudnn_fp8, kernel alone": converted_before,
    }


def converted_before(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attend in fp8, with inputs that were converted once."""
    return fp8_attention.attend_with_cudnn(*constants(q, k, v), q.shape[-1] ** -0.5)


@cache
def constants(*given: torch.Tensor) -> list[torch.Tensor]:
    return [each.to(torch.float8_e4m3fn) for each in given]


def measure(shape: Shape) -> Iterator[tuple[str, str]]:
    """Yield the name of each kernel with the cells of its row."""
    generator = torch.Generator("cuda").manual_seed(0)
    size = (shape.batch, shape.tokens, shape.heads, shape.size)
    q, k, v = (torch.randn(size, device="cuda", dtype=torch.bfloat16, generator=generator) for _ in range(3))
    q, k = 2.0 * q, 2.0 * k  # sharper than uniform attention, as in trained models
    some = slice(0, min(shape.tokens, 512))
    exact = scaled_dot_product_attention(*(each.float().transpose(1, 2) for each in (q[:, some], k, v))).transpose(1, 2)
    for name, attend in kernels(shape).items():
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
    fp8_attention.operator()
    print("| shape | kernel | ms | TFLOP/s | error |\n| --- | --- | --- | --- | --- |", flush=True)
    with torch.no_grad():
        for title, shape in SHAPES.items():
            for name, cells in measure(shape):
                print(f"| {title} | {name} | {cells}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

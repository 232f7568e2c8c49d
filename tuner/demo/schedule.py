"""A training loop's clock: a limit in seconds sets the length, whatever the machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

WARMUP = 0.03  # of the whole
PROGRAM_START = time.monotonic()


@dataclass(frozen=True)
class Plan:
    """How long a program trains (its preparations included), on how many images at once, how fast it learns.

    Eager means no compiler and no CUDA graph, as always on a CPU; fresh, that it starts from nothing.
    """

    seconds: float
    batch: int
    rate: float
    eager: bool
    fresh: bool = True


@dataclass(frozen=True)
class Tick:
    """One iteration: its number, how much of the time has passed (0..1), and the factor on the learning rate."""

    step: int
    progress: float

    @property
    def rate(self) -> float:
        """Linear warm-up, then half a cosine down to zero."""
        if self.progress < WARMUP:
            return self.progress / WARMUP
        return 0.5 + 0.5 * math.cos(math.pi * (self.progress - WARMUP) / (1 - WARMUP))


def ticks(seconds: float) -> Iterator[Tick]:
    """Yield iterations until the program has run for so long, including what it did before the first."""
    start = time.monotonic()
    length = seconds - (start - PROGRAM_START)
    if length <= 0:
        raise ValueError(f"no time left to train: the first {start - PROGRAM_START:.0f} s went into preparations")
    step = 0
    while (progress := (time.monotonic() - start) / length) < 1:
        yield Tick(step, progress)
        step += 1
        if step % 50 == 0 and torch.cuda.is_available():
            torch.cuda.synchronize()  # or the queue of launches would outrun the clock


class Average:
    """An exponential moving average of parameters."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], decay: float = 0.999) -> None:
        self.parameters = list(parameters)
        self.values = [parameter.detach().clone() for parameter in self.parameters]
        self.decay = decay

    def update(self) -> None:
        """Add the parameters after a step to the average."""
        torch._foreach_lerp_(self.values, [parameter.detach() for parameter in self.parameters], 1 - self.decay)

    def store(self) -> None:
        """Replace the parameters by the average."""
        torch._foreach_copy_([parameter.detach() for parameter in self.parameters], self.values)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Replace the parameters by the average within the context."""
        kept = [parameter.detach().clone() for parameter in self.parameters]
        self.store()
        yield
        torch._foreach_copy_([parameter.detach() for parameter in self.parameters], kept)


def optimizer(parameters: list[torch.nn.Parameter], decay: float) -> tuple[torch.optim.AdamW, torch.Tensor]:
    """AdamW and its learning rate, a tensor so that a recorded step can be given a new one."""
    where = parameters[0].device
    rate = torch.zeros((), device=where)
    cuda = where.type == "cuda"
    return torch.optim.AdamW(parameters, rate, (0.9, 0.98), weight_decay=decay, fused=cuda, capturable=cuda), rate


def recorded(step: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Record a training step as one CUDA graph: small networks spend more time on launches than on kernels."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()

    def replay() -> torch.Tensor:
        graph.replay()
        return result

    return replay


def device() -> torch.device:
    """Return the GPU if there is one, set up for training."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.set_float32_matmul_precision("high")
    # cuDNN's attention crashed in the backward pass of this network (torch 2.11, H200).
    torch.backends.cuda.enable_cudnn_sdp(False)
    return torch.device("cuda")

"""A pipeline that calls back as diffusers' do, and a Kineto trace to be planted with facts."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

STEP_US = 1000.0
MAIN = 100


class FakePipeline:
    """The denoising loop of a diffusers pipeline around any function of a tensor and the step's number."""

    def __init__(self, step: Callable[[Any, int], Any], start: Any) -> None:
        self.denoise = step
        self.start = start

    @property
    def scheduler(self) -> FakePipeline:
        return self

    def step(self, latents: Any, index: int) -> Any:
        """A scheduler's step: what a pipeline calls after its denoiser."""
        return latents

    def __call__(self, steps: int) -> Any:
        import torch

        latents = self.start
        with torch.no_grad():
            for index in range(steps):
                latents = self.step(self.denoise(latents, index), index)
        return latents


class PlantedTrace:
    """A trace in the making, written by hand and not recorded: three marked steps of one millisecond each, the first
    at time 0, kernels on request. The names of its events are those of real traces."""

    def __init__(self, steps: int = 3, marks: tuple[str, ...] = ("ProfilerStep", "denoise_step")) -> None:
        self.events: list[dict[str, Any]] = []
        self.top: dict[str, Any] = {}
        self._correlation = 0
        for step in range(steps):
            for mark in marks:
                self.host(f"{mark}#{step + 2}", step * STEP_US, STEP_US, cat="user_annotation")

    def host(self, name: str, ts: float, dur: float, cat: str = "cpu_op", **args: Any) -> None:
        self.events.append(
            {"ph": "X", "cat": cat, "name": name, "pid": MAIN, "tid": MAIN, "ts": ts, "dur": dur, "args": args}
        )

    def device(
        self, name: str, ts: float, dur: float, correlation: int, cat: str = "kernel", stream: int = 7, size: int = 0
    ) -> None:
        args = {"correlation": correlation, "stream": stream} | ({"bytes": size} if size else {})
        self.events.append(
            {"ph": "X", "cat": cat, "name": name, "pid": 0, "tid": stream, "ts": ts, "dur": dur, "args": args}
        )

    def call(self, name: str, ts: float, dur: float) -> int:
        """A CUDA runtime call; gives back its correlation."""
        self._correlation += 1
        self.host(name, ts, dur, cat="cuda_runtime", correlation=self._correlation, cbid=1)
        return self._correlation

    def kernel(self, ts: float, dur: float, operator: str = "aten::mm", name: str = "gemm", stream: int = 7) -> None:
        """An operator that launches one kernel, which runs at `ts`."""
        self.host(operator, ts - 20, 15)
        self.device(name, ts, dur, self.call("cudaLaunchKernel", ts - 15, 5), stream=stream)

    def region(self, frame: str, ts: float, dur: float) -> None:
        """A look-up of compiled code and the region that it found, as `1/0`."""
        self.host("TorchDynamo Cache Lookup", ts, 4)
        self.host(f"Torch-Compiled Region: {frame}", ts + 5, dur - 5)

    def replay(self, ts: float, kernels: int, each: float = 10) -> None:
        """A launch of a CUDA graph, and its kernels, which all have the launch's correlation."""
        launch = self.call("cudaGraphLaunch", ts, 8)
        for number in range(kernels):
            self.device("nvjet_hsh_64x8", ts + 12 + number * (each + 1), each, launch)

    def item(self, ts: float, dur: float, stack: str = "") -> None:
        """`.item()` on a CUDA tensor, as an H200 shows it."""
        args = {"Call stack": stack} if stack else {}
        self.host("aten::item", ts, dur, **args)
        self.host("aten::_local_scalar_dense", ts + 1, dur - 2, **args)
        copy = self.call("cudaMemcpyAsync", ts + 2, 3)
        self.device("Memcpy DtoH (Device -> Pinned)", ts + 4, 2, copy, cat="gpu_memcpy")
        self.call("cudaStreamSynchronize", ts + 6, dur - 10)

    def shift(self, by: float) -> None:
        """All that is planted so far happens later."""
        for event in self.events:
            event["ts"] += by

    def save(self, folder: Path, name: str = "planted.1.pt.trace.json.gz") -> Path:
        path = folder / name
        data = json.dumps({"schemaVersion": 1, **self.top, "traceEvents": self.events}).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path


@pytest.fixture
def planted() -> PlantedTrace:
    return PlantedTrace()


@pytest.fixture
def plant() -> type[PlantedTrace]:
    return PlantedTrace


@pytest.fixture
def unmarked() -> PlantedTrace:
    """A trace of a program that marks no steps."""
    return PlantedTrace(marks=())


@pytest.fixture
def pipeline() -> type[FakePipeline]:
    return FakePipeline


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    """Forget what other tests compiled."""
    import torch

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()

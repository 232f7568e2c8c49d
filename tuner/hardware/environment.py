"""The fingerprint of the machine: GPU, driver, libraries. Reads it without importing torch."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tuner.errors import Unavailable
from tuner.hardware import gpus
from tuner.records.machine import Environment

T = TypeVar("T")

LIBRARIES = (
    "torch", "triton", "diffusers", "transformers", "torchao", "accelerate", "peft", "torch-tensorrt",
    "flash-attn", "flash-attn-3", "flash-attn-4", "kernels", "sageattention", "xformers", "aiter",
    "bitsandbytes", "gguf", "optimum-quanto", "nunchaku", "mslk-cuda", "cache-dit", "DeepCache",
    "nvidia-cudnn-frontend",
)  # fmt: skip
"""Distributions that affect measurements or that enable a knob."""


def detect(device: str = "auto", gpu: str | None = None, devices: int = 1) -> Environment:
    """Describe this machine. `device` is auto, cuda or cpu, `gpu` the UUID of one (default: the first visible one).

    One image may use so many `devices`. Raises Unavailable if cuda is requested and not usable, or has fewer devices.
    """
    cuda = None if device == "cpu" else _query_gpu(_describe_gpu, gpu) if gpu else _first_gpu()
    if device == "cuda" and cuda is None:
        raise Unavailable(f"--device cuda: {no_gpu_reason()}")
    if cuda is not None and devices > max(1, visible_gpu_count()):
        raise Unavailable(f"--devices {devices}: it needs {devices} GPUs; visible here: {visible_gpu_count()}")
    common = {
        "devices": devices,
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "cpp_compiler": next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))), None),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: installed_version(name) for name in LIBRARIES},
    }
    if cuda is not None:
        return Environment(device="cuda", **cuda, **common)  # type: ignore[arg-type]
    return Environment(
        device="cpu", device_name=cpu_name(), compute_capability=None, device_memory_bytes=None, driver=None,
        **common,  # type: ignore[arg-type]
    )  # fmt: skip


def flat(environment: Environment) -> dict[str, Any]:
    """Return the fields of an environment, and each library as a field of its own."""
    fields = msgspec.to_builtins(environment)
    libraries = {f"libraries.{name}": version for name, version in fields.pop("libraries").items()}
    return {**fields, **libraries}


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def torch_cuda_version() -> str | None:
    """Return the CUDA version that the installed torch was built for, or None without torch or without CUDA.

    Reads torch's version file, since importing torch takes seconds.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = (Path(spec.origin).parent / "version.py").read_text()
    match = re.search(r"^cuda[^=]*= '([^']*)'", text, re.MULTILINE)
    return match.group(1) if match else None


def _torch_has_cuda() -> bool:
    return torch_cuda_version() is not None


def _first_gpu() -> dict[str, object] | None:
    """Describe the GPU that torch will call cuda:0, if there is one."""
    return _query_gpu(_describe_gpu) if _torch_has_cuda() else None


def driver_gpu_name() -> str | None:
    """Return the name of the first visible NVIDIA GPU, whether or not the installed torch can use it."""
    import pynvml

    return _query_gpu(lambda handle: str(pynvml.nvmlDeviceGetName(handle)))


def gpu_usage(uuid: str | None = None) -> tuple[int, int] | None:
    """Return the number of processes on a GPU, the first visible one by default, and the bytes of its memory in use."""
    import pynvml

    return _query_gpu(
        lambda handle: (
            len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle)),
            int(pynvml.nvmlDeviceGetMemoryInfo(handle).used),
        ),
        uuid,
    )


def visible_gpu_count() -> int:
    """Return the number of GPUs that CUDA sees."""
    with gpus.opened() as nvml:
        return len(gpus.visible_handles(nvml)) if nvml is not None else 0


def _query_gpu(query: Callable[[object], T], uuid: str | None = None) -> T | None:
    """Query NVML about a GPU, the first visible one by default. Returns None without a driver, a GPU, or an answer."""
    with gpus.opened() as nvml:
        if nvml is None:
            return None
        try:
            handles = [nvml.nvmlDeviceGetHandleByUUID(uuid)] if uuid else gpus.visible_handles(nvml)
            return query(handles[0]) if handles else None
        except nvml.NVMLError:
            return None


def _describe_gpu(handle: object) -> dict[str, object]:
    import pynvml

    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return {
        "device_name": str(pynvml.nvmlDeviceGetName(handle)),
        "compute_capability": f"{major}.{minor}",
        "device_memory_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        "driver": str(pynvml.nvmlSystemGetDriverVersion()),
    }


def no_gpu_reason() -> str:
    """Return why `detect` found no GPU, and what to do about it."""
    if not _torch_has_cuda():
        return "the installed torch has no CUDA (install the CUDA build of torch)"
    return "NVML finds no visible NVIDIA GPU (check the driver with nvidia-smi, and CUDA_VISIBLE_DEVICES)"


def cpu_name() -> str:
    """Return the model name of the CPU."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or platform.machine()

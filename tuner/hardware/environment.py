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
from typing import TypeVar

from tuner.errors import Unavailable
from tuner.records.machine import Environment

T = TypeVar("T")

LIBRARIES = (
    "torch", "triton", "diffusers", "transformers", "torchao", "accelerate", "peft", "torch-tensorrt",
    "flash-attn", "flash-attn-3", "flash-attn-4", "kernels", "sageattention", "xformers", "aiter",
    "bitsandbytes", "gguf", "optimum-quanto", "nunchaku", "mslk-cuda", "cache-dit", "DeepCache",
)  # fmt: skip
"""Distributions that affect measurements or that enable a knob."""


def detect(device: str = "auto") -> Environment:
    """Describe this machine. `device` is auto, cuda or cpu. Raises Unavailable if cuda is requested and not usable."""
    cuda = None if device == "cpu" else _first_gpu()
    if device == "cuda" and cuda is None:
        raise Unavailable(f"--device cuda: {no_gpu_reason()}")
    common = {
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


def gpu_usage() -> tuple[int, int] | None:
    """Return the number of processes on the first visible GPU and the bytes of its memory in use."""
    import pynvml

    return _query_gpu(
        lambda handle: (
            len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle)),
            int(pynvml.nvmlDeviceGetMemoryInfo(handle).used),
        )
    )


def _query_gpu(query: Callable[[object], T]) -> T | None:
    """Query NVML about the first visible GPU. Returns None without a driver, without a GPU, or if NVML fails."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handle = _visible_gpu()
        return None if handle is None else query(handle)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _describe_gpu(handle: object) -> dict[str, object]:
    import pynvml

    # NVML and CUDA may number several GPUs in a different order: CUDA_DEVICE_ORDER=PCI_BUS_ID makes them agree.
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return {
        "device_name": str(pynvml.nvmlDeviceGetName(handle)),
        "compute_capability": f"{major}.{minor}",
        "device_memory_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        "driver": str(pynvml.nvmlSystemGetDriverVersion()),
    }


def _visible_gpu() -> object | None:
    """Return the NVML handle of the first entry of CUDA_VISIBLE_DEVICES, which may be an index or a UUID."""
    import pynvml as nvml

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    first = "0" if visible is None else visible.split(",")[0].strip()
    try:
        if first.startswith(("GPU-", "MIG-")):
            return nvml.nvmlDeviceGetHandleByUUID(first)  # type: ignore[no-any-return]
        return nvml.nvmlDeviceGetHandleByIndex(int(first))  # type: ignore[no-any-return]
    except (nvml.NVMLError, ValueError):
        return None


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

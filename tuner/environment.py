"""The fingerprint of a machine: GPU, driver, libraries. Read without importing torch."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
from importlib import metadata
from pathlib import Path

from tuner.errors import Unavailable
from tuner.record import Environment

LIBRARIES = (
    "torch", "triton", "diffusers", "transformers", "torchao", "accelerate", "peft", "torch-tensorrt",
    "flash-attn", "flash-attn-3", "flash-attn-4", "kernels", "sageattention", "xformers", "aiter",
    "bitsandbytes", "gguf", "optimum-quanto", "nunchaku", "mslk-cuda", "cache-dit", "DeepCache",
)  # fmt: skip
"""Distributions that measurements depend on, or that switch something on."""


def detect(device: str = "auto") -> Environment:
    """Describe this machine. `device` is auto, cuda or cpu; Unavailable when cuda is asked for and cannot be had."""
    cuda = None if device == "cpu" else _first_gpu()
    if device == "cuda" and cuda is None:
        raise Unavailable(f"--device cuda: {_why_no_gpu()}")
    common = {
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "cpp_compiler": next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))), None),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _version(name) for name in LIBRARIES},
    }
    if cuda is not None:
        return Environment(device="cuda", **cuda, **common)  # type: ignore[arg-type]
    return Environment(
        device="cpu", device_name=_cpu_name(), compute_capability=None, device_memory_bytes=None, driver=None,
        **common,  # type: ignore[arg-type]
    )  # fmt: skip


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _torch_has_cuda() -> bool:
    """Whether the installed torch was built for CUDA, read from its version file since importing it takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    text = (Path(spec.origin).parent / "version.py").read_text()
    return re.search(r"^cuda[^=]*= '", text, re.MULTILINE) is not None


def _first_gpu() -> dict[str, object] | None:
    """Name, memory, compute capability and driver of the GPU that torch will call cuda:0, if there is one."""
    if not _torch_has_cuda():
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handle = _visible_gpu(pynvml)
        if handle is None:
            return None
        # Of several GPUs, NVML and CUDA may count in another order: CUDA_DEVICE_ORDER=PCI_BUS_ID makes them agree.
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        return {
            "device_name": str(pynvml.nvmlDeviceGetName(handle)),
            "compute_capability": f"{major}.{minor}",
            "device_memory_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            "driver": str(pynvml.nvmlSystemGetDriverVersion()),
        }
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _visible_gpu(pynvml: object) -> object | None:
    """The NVML handle behind the first entry of CUDA_VISIBLE_DEVICES, which may be an index or a UUID."""
    import pynvml as nvml

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    first = "0" if visible is None else visible.split(",")[0].strip()
    try:
        if first.startswith(("GPU-", "MIG-")):
            return nvml.nvmlDeviceGetHandleByUUID(first)  # type: ignore[no-any-return]
        return nvml.nvmlDeviceGetHandleByIndex(int(first))  # type: ignore[no-any-return]
    except (nvml.NVMLError, ValueError):
        return None


def _why_no_gpu() -> str:
    if not _torch_has_cuda():
        return "the installed torch has no CUDA (install the CUDA build of torch)"
    return "NVML finds no visible NVIDIA GPU (check the driver with nvidia-smi, and CUDA_VISIBLE_DEVICES)"


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()

"""Inspect the hardware and system of this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

from tuner.commands.doctor.records import Machine
from tuner.hardware import environment
from tuner.records.machine import Environment


def inspect_machine(env: Environment, device: str, studies: Path) -> Machine:
    """Inspect this machine for `--device DEVICE` and for studies written to a folder."""
    import psutil

    processes, used_bytes = (environment.gpu_usage() if env.device == "cuda" else None) or (None, None)
    unused_gpu = environment.driver_gpu_name() if env.device == "cpu" and device != "cpu" else None
    studies = studies.absolute()
    return Machine(
        environment=env,
        no_gpu=no_gpu_reason(device, unused_gpu) if env.device == "cpu" else None,
        unused_gpu=unused_gpu,
        torch_cuda=environment.torch_cuda_version(),
        gpu_processes=processes,
        gpu_memory_used_bytes=used_bytes,
        cpu_name=environment.cpu_name(),
        memory_bytes=psutil.virtual_memory().total,
        studies=str(studies),
        free_disk_bytes=shutil.disk_usage(_existing_folder(studies)).free,
    )


def no_gpu_reason(device: str, unused_gpu: str | None) -> str:
    """Explain why no GPU is used."""
    if device == "cpu":
        return "not used, because of --device cpu"
    if unused_gpu is None:
        return "none found (check nvidia-smi and CUDA_VISIBLE_DEVICES if there should be one)"
    return f"{unused_gpu} is not used: {environment.no_gpu_reason()}"


def _existing_folder(path: Path) -> Path:
    """Return the path or its nearest parent that exists."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())

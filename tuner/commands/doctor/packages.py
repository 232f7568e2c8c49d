"""List the packages that tune needs or can use, and check their versions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import metadata

from packaging.requirements import Requirement

from tuner.commands.doctor.records import Package
from tuner.hardware import environment

DISTRIBUTION = "diffusion-tuner"

PURPOSES = {
    "torch": "runs, compiles and profiles the pipelines",
    "triton": "compiles GPU kernels for torch.compile; comes with torch's CUDA build",
    "diffusers": "the pipelines themselves",
    "transformers": "text encoders, and the CLIP model that scores images",
    "torchao": "quantization: int8 and fp8 weights",
    "accelerate": "loads large models without a second copy in memory",
    "peft": "LoRA adapters",
    "torch-tensorrt": "compiles through NVIDIA's TensorRT",
    "flash-attn": "FlashAttention 2",
    "flash-attn-3": "FlashAttention 3, for Hopper GPUs",
    "flash-attn-4": "FlashAttention 4, for Blackwell GPUs",
    "kernels": "fetches attention kernels from the Hugging Face hub",
    "sageattention": "attention in int8 and fp8",
    "xformers": "Meta's memory-efficient attention",
    "aiter": "attention kernels for AMD GPUs",
    "bitsandbytes": "quantization: int8 and 4 bits",
    "gguf": "reads weights in llama.cpp's quantized format",
    "optimum-quanto": "quantization by Hugging Face",
    "nunchaku": "4-bit quantized transformers (SVDQuant)",
    "mslk-cuda": "fast low-precision kernels that torchao calls",
    "cache-dit": "caches between denoising steps",
    "DeepCache": "caches between denoising steps, for UNets",
    "nvidia-cudnn-frontend": "attention in fp8",
}
"""What each package is for, in words for a newcomer."""


def list_packages(libraries: Mapping[str, str | None]) -> tuple[Package, ...]:
    """List the packages that tune needs, then those that it can use. `libraries` maps a name to its version."""
    needed = requirements()
    names = sorted(libraries, key=lambda name: name not in needed)
    versions = {name: libraries[name] for name in names}
    versions |= {name: environment.installed_version(name) for name in needed if name not in libraries}
    return tuple(_package(name, version, needed.get(name)) for name, version in versions.items())


@cache
def requirements() -> dict[str, str]:
    """Return the range of versions of each package that tune needs, from tune's own metadata.

    Empty if tune is not installed.
    """
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return {}
    parsed = map(Requirement, lines)
    needed = [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return {r.name: ",".join(sorted(map(str, r.specifier), reverse=True)) for r in needed}


def _package(name: str, version: str | None, supported_versions: str | None) -> Package:
    return Package(
        name=name,
        version=version,
        purpose=PURPOSES.get(name, ""),
        needed=supported_versions is not None,
        supported_versions=supported_versions or "",
        supported=supported_versions is None or _fits(version, f"{name}{supported_versions}"),
    )


def _fits(version: str | None, requirement: str) -> bool:
    return version is not None and Requirement(requirement).specifier.contains(version, prereleases=True)

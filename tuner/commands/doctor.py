"""`tune doctor`: what this machine has, what that switches on, and what one more package would add. Changes nothing."""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec
from packaging.requirements import Requirement
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from tuner.commands.knobs import by_reason
from tuner.errors import TunerError
from tuner.hardware import environment
from tuner.knobs import KNOBS, Knob
from tuner.model import architecture
from tuner.records.codec import Record, Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture
from tuner.report.console import BASELINE, QUIET
from tuner.report.formatting import format_value, one_line, pluralize, section, wrap_text

DISTRIBUTION = "diffusion-tuner"
GIB = 2**30
LITTLE_SPACE = 2 * GIB
"""With less than this on the disk a study of many traces and images may not fit."""

MISSING = "not installed"

ANY_VERSION = "9999"
"""Stands for the newest version of a package that is not installed."""

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
}
"""What each package is for, in words for a newcomer."""

WELL_KNOWN: Mapping[str, Mapping[str, str]] = {
    "FluxPipeline": {"transformer": "FluxTransformer2DModel"},
    "Flux2Pipeline": {"transformer": "Flux2Transformer2DModel"},
    "StableDiffusion3Pipeline": {"transformer": "SD3Transformer2DModel"},
    "StableDiffusionXLPipeline": {"unet": "UNet2DConditionModel", "scheduler": "EulerDiscreteScheduler"},
    "QwenImagePipeline": {"transformer": "QwenImageTransformer2DModel", "vae": "AutoencoderKLQwenImage"},
    "ZImagePipeline": {"transformer": "ZImageTransformer2DModel"},
    "SanaPipeline": {"transformer": "SanaTransformer2DModel", "vae": "AutoencoderDC"},
    "PixArtSigmaPipeline": {"transformer": "PixArtTransformer2DModel", "scheduler": "DPMSolverMultistepScheduler"},
    "WanPipeline": {"transformer": "WanTransformer3DModel", "vae": "AutoencoderKLWan"},
    "LTXPipeline": {"transformer": "LTXVideoTransformer3DModel", "vae": "AutoencoderKLLTXVideo"},
}
"""Pipelines that stand for all others where none is named."""

COMMON = {"scheduler": "FlowMatchEulerDiscreteScheduler", "vae": "AutoencoderKL"}

ABILITIES = (
    ("torch.compile", "compile.scope", r"regional|full"),
    ("TensorRT", "compile.backend", r"tensorrt"),
    ("CUDA graphs", "compile.mode", r"reduce-overhead|max-autotune"),
    ("tuned Triton kernels", "compile.mode", r"max-autotune.*"),
    ("bfloat16", "precision.dtype", r"bfloat16"),
    ("float16", "precision.dtype", r"float16"),
    ("int8 quantization", "quantization.scheme", r"int8.*"),
    ("int4 quantization", "quantization.scheme", r"(uint|int)4.*"),
    ("fp8 quantization", "quantization.scheme", r"(fp|float|mxfp)8.*"),
    ("fp4 quantization", "quantization.scheme", r"(fp|float|mxfp|nvfp)4.*"),
    ("cuDNN attention", "attention.backend", r".*cudnn.*"),
    ("FlashAttention in torch", "attention.backend", r"_native_flash"),
    ("FlashAttention 2", "attention.backend", r"flash"),
    ("FlashAttention 3", "attention.backend", r"_flash_3"),
    ("SageAttention", "attention.backend", r"sage"),
    ("xFormers attention", "attention.backend", r"xformers"),
    ("flex attention", "attention.backend", r"flex"),
    ("caches between steps", "cache.kind", r"(?!none$).*"),
)
"""What a person may have heard of: its name, the knob that has it, and which of the knob's values."""


class Machine(Record):
    """What the machine has. `no_gpu` says why no GPU is used, `unused_gpu` names one that ought to be and cannot;
    `gpu_processes` counts those that compute on it now."""

    environment: Environment
    no_gpu: str | None
    unused_gpu: str | None
    torch_cuda: str | None
    gpu_processes: int | None
    gpu_memory_used_bytes: int | None
    cpu_name: str
    memory_bytes: int
    studies: str
    free_disk_bytes: int


class Package(Record):
    """A package that matters: its version, and the versions that tune was made for if it needs it."""

    name: str
    version: str | None
    purpose: str
    needed: bool
    supported_versions: str
    supported: bool


class Ability(Record):
    """Something that this machine can do, in part or not; `why` names the settings, or what is missing."""

    name: str
    works: Literal["yes", "partly", "no"]
    why: str


class Addition(Record):
    """What would become available with one more package: knob to values; `pipelines` names those that gain where not
    all do."""

    package: str
    install: str
    purpose: str
    adds: dict[str, tuple[Value, ...]]
    pipelines: tuple[str, ...]


class Diagnosis(Record):
    """The doctor's findings; `problems` are those to mend before a study."""

    problems: tuple[str, ...]
    machine: Machine
    packages: tuple[Package, ...]
    abilities: tuple[Ability, ...]
    additions: tuple[Addition, ...]


def diagnose(device: str = "auto", studies: Path = Path("traces")) -> Diagnosis:
    """Look at this machine as `tune run --device DEVICE` would find it; what is missing is a finding, not an error."""
    try:
        here = environment.detect(device)
    except TunerError:
        here = environment.detect("cpu")
    machine = _machine(here, device, studies)
    listed = packages(here.libraries)
    return Diagnosis(
        problems=tuple(_problems(machine, listed)),
        machine=machine,
        packages=listed,
        abilities=abilities(here),
        additions=additions(here),
    )


def _machine(here: Environment, device: str, studies: Path) -> Machine:
    import psutil

    processes, used = (environment.gpu_usage() if here.device == "cuda" else None) or (None, None)
    unused_gpu = environment.driver_gpu_name() if here.device == "cpu" and device != "cpu" else None
    studies = studies.absolute()
    existing = next(folder for folder in (studies, *studies.parents) if folder.is_dir())
    return Machine(
        environment=here,
        no_gpu=_no_gpu(device, unused_gpu) if here.device == "cpu" else None,
        unused_gpu=unused_gpu,
        torch_cuda=environment.torch_cuda_version(),
        gpu_processes=processes,
        gpu_memory_used_bytes=used,
        cpu_name=environment.cpu_name(),
        memory_bytes=psutil.virtual_memory().total,
        studies=str(studies),
        free_disk_bytes=shutil.disk_usage(existing).free,
    )


def _no_gpu(device: str, unused_gpu: str | None) -> str:
    if device == "cpu":
        return "left aside, as --device cpu says"
    if unused_gpu is None:
        return "none found (nvidia-smi would list an NVIDIA GPU; CUDA_VISIBLE_DEVICES can hide it)"
    return f"{unused_gpu} is not used: {environment.no_gpu_reason()}"


def _problems(machine: Machine, listed: Sequence[Package]) -> Iterator[str]:
    if not any(package.needed for package in listed):
        yield f"{DISTRIBUTION} itself is not installed, so no version can be checked (pip install . in its folder)"
    for package in listed:
        if not package.supported:
            lacking = f"{package.version} is not a version that tune is made for" if package.version else "is missing"
            yield f"{package.name} {lacking} (pip install '{package.name}{package.supported_versions}')"
    if machine.no_gpu is not None and machine.unused_gpu is not None:
        yield machine.no_gpu
    if machine.gpu_processes:
        yield f"{pluralize(machine.gpu_processes, 'other process', 'other processes')} on the GPU will disturb timings"
    if machine.free_disk_bytes < LITTLE_SPACE:
        yield f"only {_gib(machine.free_disk_bytes)} left on the disk of {machine.studies}; give another with --out"


def packages(libraries: Mapping[str, str | None]) -> tuple[Package, ...]:
    """The packages that tune needs, with the range of versions that it is made for, then those that it can use."""
    needed = _requirements()
    names = [name for name in libraries if name in needed] + [name for name in libraries if name not in needed]
    others = [name for name in needed if name not in libraries]
    listed = {
        **{name: libraries[name] for name in names},
        **{name: environment.installed_version(name) for name in others},
    }
    return tuple(
        Package(
            name=name,
            version=version,
            purpose=PURPOSES.get(name, ""),
            needed=name in needed,
            supported_versions=needed.get(name, ""),
            supported=name not in needed or _fits(version, f"{name}{needed[name]}"),
        )
        for name, version in listed.items()
    )


@cache
def _requirements() -> dict[str, str]:
    """What this package needs, name to range of versions, as its own metadata says."""
    try:
        written = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return {}
    requirements = [Requirement(line) for line in written]
    always = (each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""}))
    return {each.name: ",".join(sorted(map(str, each.specifier), reverse=True)) for each in always}


def _fits(version: str | None, requirement: str) -> bool:
    return version is not None and Requirement(requirement).specifier.contains(version, prereleases=True)


# ---- what works, and what one more package would add ----------------------------------------------------------------


@cache
def _well_known() -> tuple[Architecture, ...]:
    """The architectures of well-known pipelines that the installed diffusers has."""
    found = []
    for name, components in WELL_KNOWN.items():
        try:
            found.append(architecture.describe(name, COMMON | dict(components)))
        except TunerError:
            continue
    return tuple(found)


def abilities(here: Environment) -> tuple[Ability, ...]:
    """What a person may have heard of, and whether any well-known pipeline can use it here."""
    found = []
    for name, knob, pattern in ABILITIES:
        values = [value for value in KNOBS[knob].choices if re.fullmatch(pattern, str(value))] if knob in KNOBS else []
        if values:
            found.append(_ability(name, knob, values, here))
    return tuple(found)


def _ability(name: str, knob: str, values: Sequence[Value], here: Environment) -> Ability:
    refusals = {value: _refusal(KNOBS[knob], value, here) for value in values}
    working = [value for value, reason in refusals.items() if reason is None]
    refused = {value: reason for value, reason in refusals.items() if reason is not None}
    if not working:
        return Ability(name=name, works="no", why=next(iter(refused.values())))
    settings = f"{knob}={_listed(working)}"
    if not refused:
        return Ability(name=name, works="yes", why=settings + _through(knob, here))
    missing = [f"not {_listed(without)}: {reason}" for reason, without in by_reason(refused).items()]
    return Ability(name=name, works="partly", why="; ".join([settings, *missing]))


def _refusal(knob: Knob, value: Value, here: Environment) -> str | None:
    """Why no well-known pipeline can use a value here, or None when one can. What the machine lacks comes first, then
    what a pipeline lacks, which is said with the name of one of its classes."""
    of_machine: list[str] = []
    of_pipeline = ["the installed diffusers has no well-known pipeline"]
    for kind in _well_known():
        reason = knob.unavailable_reason(value, here, kind)
        if reason is None:
            return None
        is_own = any(name in reason for name in (kind.pipeline_class, *kind.components.values()))
        (of_pipeline if is_own else of_machine).append(reason)
    return (of_machine or of_pipeline[-1:])[0]


def _listed(values: Iterable[Value]) -> str:
    return ", ".join(map(format_value, values))


def _through(knob: str, here: Environment) -> str:
    """Which part of the machine makes a knob work, where that is not torch alone."""
    if knob == "compile.scope":
        return f" (with {here.cpp_compiler})" if here.device == "cpu" else f" (Triton {here.libraries.get('triton')})"
    return f" (torchao {here.libraries.get('torchao')})" if knob == "quantization.scheme" else ""


def additions(here: Environment) -> tuple[Addition, ...]:
    """What each package would add by itself that is missing or too old: every refused value is asked for again as if
    the newest version were installed."""
    refused = [
        (kind, knob, value, reason)
        for kind in _well_known()
        for knob in KNOBS.values()
        for value in knob.choices
        if (reason := knob.unavailable_reason(value, here, kind)) is not None
    ]
    found = []
    for package, version in here.libraries.items():
        if version is not None and package in _requirements():
            continue  # its range of versions is fixed
        with_it = msgspec.structs.replace(here, libraries={**here.libraries, package: ANY_VERSION})
        gains = [gain for gain in refused if gain[1].unavailable_reason(gain[2], with_it, gain[0]) is None]
        if gains:
            found.append(_addition(package, gains))
    return tuple(found)


def _addition(package: str, gains: Sequence[tuple[Architecture, Knob, Value, str]]) -> Addition:
    adds: defaultdict[str, list[Value]] = defaultdict(list)
    for _, knob, value, _ in gains:
        if value not in adds[knob.name]:
            adds[knob.name].append(value)
    remedy = re.search(r"\(([^()]+)\)$", gains[0][3])
    pipelines = dict.fromkeys(kind.pipeline_class for kind, _, _, _ in gains)
    return Addition(
        package=package,
        install=remedy.group(1) if remedy else f"pip install {package}",
        purpose=PURPOSES.get(package, ""),
        adds={name: tuple(values) for name, values in adds.items()},
        pipelines=() if len(pipelines) == len(_well_known()) else tuple(pipelines),
    )


# ---- for people -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """A diagnosis as text: a verdict, then one section for each question."""

    diagnosis: Diagnosis

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, found = options.max_width, self.diagnosis
        yield from _verdict(found, width)
        yield from section("This machine", _machine_rows(found.machine), width, _is_absent)
        yield from section("Packages", _package_rows(found.packages), width, _is_absent)
        yield from section("What works here", [(a.name, _ability_text(a)) for a in found.abilities], width, _is_absent)
        yield from _additions(found.additions, width)
        yield from wrap_text("", "`tune knobs MODEL` lists all settings for a pipeline with their reasons.", width)


def _verdict(found: Diagnosis, width: int) -> Iterator[Text]:
    if not found.problems:
        yield Text("Ready: everything that `tune run` needs is here.", style="bold green")
    else:
        yield Text(f"{pluralize(len(found.problems), 'problem')} to look at:", style="bold yellow")
        for problem in found.problems:
            yield from wrap_text("- ", problem, width, indent=2)
    yield Text("")


def _is_absent(name: str, text: str) -> bool:
    return name == MISSING or text.startswith("no: ")


def _machine_rows(machine: Machine) -> list[tuple[str, str]]:
    here = machine.environment
    torch = here.libraries.get("torch")
    built = f"built for CUDA {machine.torch_cuda}" if machine.torch_cuda else "built without CUDA: it uses the CPU only"
    return [
        ("GPU", _gpu_text(machine)),
        ("CPU", f"{machine.cpu_name}, {pluralize(here.cpu_count, 'core')}, {_gib(machine.memory_bytes)} of memory"),
        ("torch", f"{torch}, {built}" if torch else MISSING),
        ("C++ compiler", here.cpp_compiler or "none found (g++ or clang++): torch.compile on the CPU needs one"),
        ("Python", f"{here.python} on {here.platform}"),
        ("disk", f"{_gib(machine.free_disk_bytes)} free for studies in {machine.studies}"),
    ]


def _gpu_text(machine: Machine) -> str:
    here = machine.environment
    if machine.no_gpu is not None:
        return machine.no_gpu
    text = f"{here.device_name}, {_gib(here.device_memory_bytes or 0)} of memory"
    text += f", compute capability {here.compute_capability}, driver {here.driver}"
    if machine.gpu_processes is None:
        return text
    by = pluralize(machine.gpu_processes, "process", "processes") if machine.gpu_processes else "no process"
    return f"{text}; {by} on it now, {_gib(machine.gpu_memory_used_bytes or 0)} in use"


def _package_rows(listed: Sequence[Package]) -> list[tuple[str, str]]:
    """Those that are needed or installed, one a line, then the names of the others."""
    shown = [p for p in listed if (p.purpose and (p.needed or p.version)) or not p.supported]
    names = max((len(p.name) for p in shown), default=0) + 2
    versions = max((len(p.version or MISSING) for p in shown), default=0)
    rows = [
        (
            f"{p.name:<{names}}{p.version or MISSING:<{versions}}",
            p.purpose if p.supported else f"tune needs {p.supported_versions}",
        )
        for p in shown
    ]
    absent = ", ".join(p.name for p in listed if not p.needed and p.version is None)
    return [*rows, (MISSING, f"{absent} (none of them is needed)")] if absent else rows


def _ability_text(ability: Ability) -> str:
    return f"{ability.works}: {one_line(ability.why)}"


def _additions(found: Sequence[Addition], width: int) -> Iterator[Text]:
    yield Text("What one more package would add", style=BASELINE)
    for addition in found:
        is_pip = addition.install.startswith("pip install")
        yield from wrap_text("" if is_pip else f"{addition.package}: ", addition.install, width, "cyan", 2)
        yield from wrap_text("", addition.purpose, width, QUIET, 6)
        for knob, values in addition.adds.items():
            yield from wrap_text(f"{knob}=", _listed(values), width, "green", 6)
        if addition.pipelines:
            yield from wrap_text("for ", ", ".join(addition.pipelines), width, indent=6)
    if not found:
        yield Text("  nothing: no package that is missing would make another setting available here", style=QUIET)
    yield Text("")


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"

"""Diagnose this machine. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tuner.commands import checks
from tuner.commands.doctor.abilities import list_abilities
from tuner.commands.doctor.additions import list_additions
from tuner.commands.doctor.machine import inspect_machine
from tuner.commands.doctor.packages import DISTRIBUTION, list_packages
from tuner.commands.doctor.records import Diagnosis, Machine, Package
from tuner.errors import TunerError
from tuner.hardware import environment
from tuner.model.pipeline import DEFAULT_SCORER
from tuner.report.formatting import pluralize

GIB = 2**30
MIN_FREE_BYTES = 2 * GIB
"""A study of many traces and images may not fit in less."""


def diagnose(device: str = "auto", studies: Path = Path("traces")) -> Diagnosis:
    """Inspect this machine as `tune run --device DEVICE` would find it.

    What is missing is a finding, not an error. `studies` is the folder that studies are written to.
    """
    refusal: str | None = None
    try:
        env = environment.detect(device)
    except TunerError as error:
        env, refusal = environment.detect("cpu"), str(error)
    machine = inspect_machine(env, device, studies)
    packages = list_packages(env.libraries)
    return Diagnosis(
        problems=(*_package_problems(packages), *_machine_problems(machine, refusal), *_scorer_problems()),
        machine=machine,
        packages=packages,
        abilities=list_abilities(env),
        additions=list_additions(env),
    )


def format_gib(size: int) -> str:
    """Format a number of bytes in GiB."""
    return f"{size / GIB:.1f} GiB"


def _package_problems(packages: Sequence[Package]) -> Iterator[str]:
    if not any(package.needed for package in packages):
        yield f"{DISTRIBUTION} is not installed, so no versions can be checked (run pip install . in its folder)"
    for package in packages:
        if not package.supported:
            problem = f"{package.version} is not a supported version" if package.version else "is missing"
            yield f"{package.name} {problem} (pip install '{package.name}{package.supported_versions}')"


def _machine_problems(machine: Machine, refusal: str | None) -> Iterator[str]:
    if refusal is not None:
        yield refusal
    elif machine.no_gpu is not None and machine.unused_gpu is not None:
        yield machine.no_gpu
    if machine.gpu_processes:
        yield f"{pluralize(machine.gpu_processes, 'other process', 'other processes')} on the GPU will disturb timings"
    if machine.free_disk_bytes < MIN_FREE_BYTES:
        free = format_gib(machine.free_disk_bytes)
        yield f"only {free} free on the disk of {machine.studies}; choose another folder with --out"


def _scorer_problems() -> Iterator[str]:
    """Yield what `tune run MODEL` would say of the model that scores the images by default."""
    try:
        checks.check_clip(DEFAULT_SCORER)
    except TunerError as error:
        yield str(error)
    except ModuleNotFoundError:
        return  # the hub's client, without which diffusers is not installed either

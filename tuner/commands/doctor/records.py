"""The records of a diagnosis, as `tune doctor --json` prints them."""

from __future__ import annotations

from typing import Literal

from tuner.records.codec import Record, Value
from tuner.records.machine import Environment


class Machine(Record):
    """The hardware and system.

    `no_gpu` is the reason why no GPU is used. `unused_gpu` names a GPU that torch should use and cannot.
    `gpu_processes` counts the processes that compute on the GPU now. `studies` is the folder that studies go to.
    """

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
    """A package, its installed version, and the range of versions that tune supports_percentile if tune needs it."""

    name: str
    version: str | None
    purpose: str
    needed: bool
    supported_versions: str
    supported: bool


class Ability(Record):
    """A feature and whether it works on this machine; `why` names the settings that use it, or what is missing."""

    name: str
    works: Literal["yes", "partly", "no"]
    why: str


class Addition(Record):
    """The knob values that one more package would enable.

    `pipelines` names the pipeline classes that gain, and is empty if all do.
    """

    package: str
    install: str
    purpose: str
    adds: dict[str, tuple[Value, ...]]
    pipelines: tuple[str, ...]


class Diagnosis(Record):
    """All findings; `problems` are those to fix before a study."""

    problems: tuple[str, ...]
    machine: Machine
    packages: tuple[Package, ...]
    abilities: tuple[Ability, ...]
    additions: tuple[Addition, ...]

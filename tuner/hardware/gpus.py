"""The GPUs of this host, read through NVML: which are visible and idle, their cores, and what is wrong with one."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tuner.errors import BadInput, Unavailable
from tuner.hardware.nvml import error_text
from tuner.records.outcome import Device

BUSY_BYTES = 1 << 30
"""Memory in use from which on a GPU without a visible process counts as busy. The driver itself may take less."""

SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
"""Which logical cores are of the same physical one."""


class Trouble(NamedTuple):
    """What is wrong with a device: it cannot be used at all, or should not be used now."""

    reason: str
    is_lost: bool


@dataclass(frozen=True)
class Gpu:
    """A visible GPU, its place among these, and who uses it now. `near` are the cores next to it, if that is known."""

    index: int
    uuid: str
    name: str
    memory_bytes: int
    near: frozenset[int] = frozenset()
    processes: int = 0
    used_bytes: int = 0

    @property
    def is_idle(self) -> bool:
        """Whether nobody computes on it, or holds its memory."""
        return not self.processes and self.used_bytes < BUSY_BYTES

    @property
    def kind(self) -> tuple[str, int]:
        """What GPUs must have in common to be compared."""
        return self.name, self.memory_bytes


class Choice(NamedTuple):
    """The GPUs that a study uses, and why it leaves others out. Those that were named may be `shared` with others."""

    gpus: tuple[Gpu, ...] = ()
    left_out: tuple[str, ...] = ()
    shared: bool = False


# ---- which ----------------------------------------------------------------------------------------------------------


def choose(asked: str | None, visible: Sequence[Gpu]) -> Choice:
    """Return the GPUs that are asked for: "all", a number of idle ones, indices, or None for all that are idle.

    They are of the kind of the first of them. Raises BadInput or Unavailable.
    """
    idle = [gpu for gpu in visible if gpu.is_idle]
    if asked is None:
        wanted = idle or list(visible[:1])
    elif asked == "all":
        wanted = list(visible)
    elif asked.isdigit():
        wanted = idle[: int(asked)]
        if len(wanted) < int(asked):
            raise Unavailable(f"--gpus {asked}: {len(idle)} of {len(visible)} visible GPUs are idle; all takes any")
    else:
        wanted = [_indexed(asked, int(index), visible) for index in dict.fromkeys(filter(None, asked.split(",")))]
    others = [gpu for gpu in wanted if gpu.kind != wanted[0].kind]
    if others and asked not in (None, "all"):
        raise BadInput(f"--gpus {asked}: {_other_kind(others[0], wanted[0])}; tune it in a study of its own")
    busy = [] if asked else [f"GPU {gpu.index} is left out: {_use(gpu)}" for gpu in visible if gpu not in wanted]
    different = [f"GPU {gpu.index} is left out: {_other_kind(gpu, wanted[0])}" for gpu in others]
    is_shared = asked is not None and not asked.isdigit()
    return Choice(tuple(gpu for gpu in wanted if gpu not in others), (*busy, *different), is_shared)


def _indexed(asked: str, index: int, visible: Sequence[Gpu]) -> Gpu:
    if index >= len(visible):
        raise Unavailable(f"--gpus {asked}: there is no GPU {index}: {len(visible)} are visible, counted from 0")
    return visible[index]


def _other_kind(gpu: Gpu, first: Gpu) -> str:
    memory = f" with {gpu.memory_bytes / 2**30:.0f} GiB" if gpu.name == first.name else ""
    return f"GPU {gpu.index} is another kind than GPU {first.index} ({gpu.name}{memory})"


def _use(gpu: Gpu) -> str:
    who = f"{gpu.processes} other process{'es' if gpu.processes > 1 else ''}" if gpu.processes else "somebody"
    return f"{who} use{'s' if gpu.processes < 2 else ''} it ({gpu.used_bytes / 1e9:.1f} GB of its memory)"


# ---- what NVML says -------------------------------------------------------------------------------------------------


@contextmanager
def opened() -> Iterator[Any]:
    """Open NVML, and yield it; None without a driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def visible_handles(nvml: Any) -> list[Any]:
    """Return NVML's handles of the GPUs that CUDA sees, whose indices or UUIDs CUDA_VISIBLE_DEVICES has.

    CUDA sees none from the first on that is not there. It may number several kinds of GPU in another order than NVML:
    CUDA_DEVICE_ORDER=PCI_BUS_ID makes them agree.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = []
    with suppress(nvml.NVMLError, ValueError):
        for name in map(str, range(nvml.nvmlDeviceGetCount())) if named is None else named.split(","):
            by_uuid = name.strip().startswith(("GPU-", "MIG-"))
            found.append(
                nvml.nvmlDeviceGetHandleByUUID(name.strip()) if by_uuid else nvml.nvmlDeviceGetHandleByIndex(int(name))
            )
    return found


def visible_gpus() -> list[Gpu]:
    """Return the GPUs that CUDA sees."""
    with opened() as nvml:
        return [_describe(nvml, index, handle) for index, handle in enumerate(visible_handles(nvml))] if nvml else []


def _describe(nvml: Any, index: int, handle: Any) -> Gpu:
    memory, near, processes = nvml.nvmlDeviceGetMemoryInfo(handle), frozenset[int](), 0
    with suppress(nvml.NVMLError):
        words = nvml.nvmlDeviceGetCpuAffinity(handle, 1 + max(os.sched_getaffinity(0)) // 64)
        near = frozenset(64 * place + bit for place, word in enumerate(words) for bit in range(64) if word >> bit & 1)
    with suppress(nvml.NVMLError):
        processes = len(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    name = str(nvml.nvmlDeviceGetName(handle))
    return Gpu(index, str(nvml.nvmlDeviceGetUUID(handle)), name, int(memory.total), near, processes, int(memory.used))


def trouble_of(device: Device, *, shared: bool = False) -> Trouble | None:
    """Return what is wrong with a GPU now: the driver does not find it any more, or others compute on it as well.

    Others may if it is `shared`.
    """
    if device.uuid is None:
        return None
    with opened() as nvml:
        if nvml is None:
            return Trouble("the driver does not answer any more", is_lost=True)
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(device.uuid)
            processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except nvml.NVMLError_NotSupported:
            return None
        except nvml.NVMLError as error:
            return Trouble(f"the driver does not find it any more ({error_text(error)})", is_lost=True)
    ours = {child.pid for child in psutil.Process().children(recursive=True)}
    others = [process.pid for process in processes if process.pid not in ours]
    if shared or not others or len(others) == len(processes):  # a container may show its processes under other numbers
        return None
    return Trouble(f"{len(others)} process{'es' if len(others) > 1 else ''} of others on it", is_lost=False)


# ---- cores ----------------------------------------------------------------------------------------------------------


def share_cores(near: Sequence[frozenset[int]], usable: frozenset[int]) -> list[frozenset[int]]:
    """Divide the usable cores between GPUs: each gets its part of those near it, by whole physical cores."""
    places: defaultdict[frozenset[int], list[int]] = defaultdict(list)
    for place, own in enumerate(near):
        places[own & usable or usable].append(place)
    parts = [frozenset[int]()] * len(near)
    for cores, gpus in places.items():
        physical = sorted({frozenset(_siblings(core)) & cores for core in cores}, key=min)
        for rank, place in enumerate(gpus):
            part = physical[rank * len(physical) // len(gpus) : (rank + 1) * len(physical) // len(gpus)]
            parts[place] = frozenset().union(*part) or cores
    return parts


def _siblings(core: int) -> set[int]:
    """Return the logical cores of the physical core that a logical one belongs to."""
    try:
        text = Path(SIBLINGS.format(core)).read_text()
        ranges = [part.split("-") for part in text.strip().split(",")]
        return {core, *(each for ends in ranges for each in range(int(ends[0]), int(ends[-1]) + 1))}
    except (OSError, ValueError):
        return {core}

"""The GPUs of this host, read through NVML: which are visible and idle, their cores, and what is wrong with one."""

from __future__ import annotations

import os
import time
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

SETTLED_S = 0.5
"""Strangers on a GPU are looked for again after so many seconds: a worker may be about to end."""

SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
"""Which logical cores are of the same physical one."""


class Trouble(NamedTuple):
    """What is wrong with a device: it cannot be used at all, or should not be used now.

    One that is lost may come back: with `again_s` it is looked at again after so many seconds.
    """

    reason: str
    is_lost: bool
    again_s: float | None = None


class GpuModel(NamedTuple):
    """The name of a GPU and its memory."""

    name: str
    memory_bytes: int

    def __str__(self) -> str:
        return f"{self.name}, {self.memory_bytes / 2**30:.0f} GiB"


@dataclass(frozen=True)
class Gpu:
    """A visible GPU, its place among these, and who uses it now. `near` are the cores next to it, if that is known.

    `fault` says why it cannot be used, if it cannot.
    """

    index: int
    uuid: str
    name: str
    memory_bytes: int
    near: frozenset[int] = frozenset()
    processes: int = 0
    used_bytes: int = 0
    fault: str | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nobody computes on it, or holds its memory."""
        return not self.processes and self.used_bytes < BUSY_BYTES

    @property
    def kind(self) -> GpuModel:
        """What GPUs must have in common to be compared."""
        return GpuModel(self.name, self.memory_bytes)


class Choice(NamedTuple):
    """The GPUs that a study uses, and why it leaves others out. Others may compute on those that were named.

    `asked` is the choice as it was written.
    """

    gpus: tuple[Gpu, ...] = ()
    left_out: tuple[str, ...] = ()
    may_be_shared: bool = False
    asked: str | None = None


# ---- which ----------------------------------------------------------------------------------------------------------


def choose(asked: str | None, visible: Sequence[Gpu], kind: GpuModel | None = None) -> Choice:
    """Return the GPUs that are asked for: "all", a number of idle ones, indices, or None for all that are idle.

    They are of one kind: `kind` if any is, else that of the first. Raises BadInput or Unavailable.
    """
    usable = [gpu for gpu in visible if gpu.fault is None]
    alike = [gpu for gpu in usable if gpu.kind == kind] or usable
    idle = [gpu for gpu in alike if gpu.is_idle]
    if asked is None:
        chosen = _of_first_kind(idle or alike[:1])
        return Choice(chosen, _left_out(visible, chosen))
    if asked == "all":
        chosen = _of_first_kind(alike)
        if not chosen:
            raise Unavailable(f"--gpus all: {'; '.join(_left_out(visible, chosen))}")
        return Choice(chosen, _left_out(visible, chosen), may_be_shared=True, asked=asked)
    if asked.isdigit():
        return Choice(_several(int(asked), _of_first_kind(idle), len(visible)), asked=asked)
    return Choice(_named(asked, visible), may_be_shared=True, asked=asked)


def _of_first_kind(gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    return tuple(gpu for gpu in gpus if gpu.kind == gpus[0].kind)


def _several(count: int, idle: tuple[Gpu, ...], visible: int) -> tuple[Gpu, ...]:
    if len(idle) < count:
        raise Unavailable(
            f"--gpus {count}: {len(idle)} of {visible} visible GPUs are idle and of one kind; all takes busy ones, too"
        )
    return idle[:count]


def _named(asked: str, visible: Sequence[Gpu]) -> tuple[Gpu, ...]:
    named = tuple(_indexed(asked, int(index), visible) for index in dict.fromkeys(filter(None, asked.split(","))))
    other = next((gpu for gpu in named if gpu.kind != named[0].kind), None)
    if other is not None:
        raise BadInput(f"--gpus {asked}: {_different(other, named[0])}; tune it in a study of its own")
    return named


def _indexed(asked: str, index: int, visible: Sequence[Gpu]) -> Gpu:
    if index >= len(visible):
        raise Unavailable(f"--gpus {asked}: there is no GPU {index}: {len(visible)} are visible, numbered from 0")
    if visible[index].fault is not None:
        raise Unavailable(f"--gpus {asked}: GPU {index}: {visible[index].fault}")
    return visible[index]


def _left_out(visible: Sequence[Gpu], chosen: Sequence[Gpu]) -> tuple[str, ...]:
    return tuple(f"GPU {gpu.index} is left out: {_why_not(gpu, chosen)}" for gpu in visible if gpu not in chosen)


def _why_not(gpu: Gpu, chosen: Sequence[Gpu]) -> str:
    if gpu.fault is not None:
        return gpu.fault
    return _different(gpu, chosen[0]) if gpu.kind != chosen[0].kind else _use(gpu)


def _different(gpu: Gpu, first: Gpu) -> str:
    return f"GPU {gpu.index} ({gpu.kind}) is of a different kind from GPU {first.index} ({first.kind})"


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
    """Return the GPUs that CUDA sees. One that NVML cannot describe has a fault."""
    with opened() as nvml:
        return [_described(nvml, index, handle) for index, handle in enumerate(visible_handles(nvml))] if nvml else []


def index_of(uuid: str) -> int | None:
    """Return NVML's index of a GPU, whatever is visible. A part of one has none."""
    with opened() as nvml:
        try:
            return int(nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByUUID(uuid)))
        except nvml.NVMLError:
            return None


def _described(nvml: Any, index: int, handle: Any) -> Gpu:
    try:
        return _describe(nvml, index, handle)
    except nvml.NVMLError as error:
        return Gpu(index, "", "", 0, fault=f"the driver cannot describe it ({error_text(error)})")


def _describe(nvml: Any, index: int, handle: Any) -> Gpu:
    memory, near, processes = nvml.nvmlDeviceGetMemoryInfo(handle), frozenset[int](), 0
    with suppress(nvml.NVMLError):
        words = nvml.nvmlDeviceGetCpuAffinity(handle, 1 + max(os.sched_getaffinity(0)) // 64)
        near = frozenset(64 * place + bit for place, word in enumerate(words) for bit in range(64) if word >> bit & 1)
    with suppress(nvml.NVMLError):
        processes = len(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    name = str(nvml.nvmlDeviceGetName(handle))
    return Gpu(index, str(nvml.nvmlDeviceGetUUID(handle)), name, int(memory.total), near, processes, int(memory.used))


def trouble_of(device: Device, group: Sequence[str] = (), *, may_be_shared: bool = False) -> Trouble | None:
    """Return what is wrong with a GPU now: the driver does not find it any more, or others compute on it as well.

    Of several that compute one image together, `group` has the UUIDs. Others may compute on it if it `may_be_shared`.
    """
    uuids = group or [uuid for uuid in [device.uuid] if uuid is not None]
    with opened() as nvml:
        if uuids and nvml is None:
            return Trouble("the driver does not answer any more", is_lost=True)
        found = (_trouble(nvml, uuid, may_be_shared=may_be_shared) for uuid in uuids)
        return next(filter(None, found), None)


def _trouble(nvml: Any, uuid: str, *, may_be_shared: bool) -> Trouble | None:
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        others = _strangers(nvml, handle)
        if others and not may_be_shared:
            time.sleep(SETTLED_S)
            others &= _strangers(nvml, handle)
    except nvml.NVMLError_NotSupported:
        return None
    except nvml.NVMLError as error:
        return Trouble(f"the driver does not find it any more ({error_text(error)})", is_lost=True)
    if may_be_shared or not others:
        return None
    return Trouble(f"{len(others)} other process{'es use' if len(others) > 1 else ' uses'} it", is_lost=False)


def _strangers(nvml: Any, handle: Any) -> set[int]:
    """Return the processes on a GPU that are not of this study. Pids of another namespace do not exist in this one."""
    pids = {process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    ours = {child.pid for child in psutil.Process().children(recursive=True)}
    return {pid for pid in pids - ours if psutil.pid_exists(pid)}


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

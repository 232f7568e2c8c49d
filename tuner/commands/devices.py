"""Which devices a study runs on, and where their workers run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tuner.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from tuner.execution.launch import Place
    from tuner.execution.ray.cluster import Cluster
    from tuner.hardware.gpus import Choice, GpuModel
    from tuner.records.machine import Environment
    from tuner.records.outcome import Device

NO_GPUS = "a study on the CPU uses no GPUs"


def connect_cluster(
    address: str, gpus: str | None, device: str, devices: int, family: Environment | str | None = None
) -> Cluster:
    """Connect to the Ray cluster of --ray, with the GPUs of --gpus, of one family, which may be named.

    An image may use so many `devices`. Raises BadInput or Unavailable.
    """
    from tuner.execution.ray.cluster import Wanted, connect

    if gpus is None:
        return connect(address, Wanted(device, family, devices))
    if device == "cpu":
        raise Unavailable(f"--gpus {gpus}: {NO_GPUS}")
    if "," in gpus:
        raise BadInput(f"--gpus {gpus}: indices are those of one host; with --ray use all or a number")
    count = None if gpus == "all" else int(gpus)
    if count is not None and count < devices:
        raise Unavailable(f"--devices {devices}: it needs {devices} GPUs; chosen with --gpus: {count}")
    return connect(address, Wanted("cuda", family, devices, count))


def choose_gpus(asked: str | None, device: str, kind: GpuModel | None = None) -> Choice:
    """Return the GPUs of --gpus, of this kind if there are such; none where the study runs on a CPU.

    Raises BadInput or Unavailable.
    """
    from tuner.hardware import environment, gpus

    visible = [] if device == "cpu" or environment.torch_cuda_version() is None else gpus.visible_gpus()
    if visible:
        return gpus.choose(asked, visible, kind)
    if asked is not None:
        reason = NO_GPUS if device == "cpu" else environment.no_gpu_reason()
        raise Unavailable(f"--gpus {asked}: {reason}")
    return gpus.Choice()


def first_uuid(choice: Choice) -> str | None:
    """Return the UUID of the first GPU that was chosen, None where it is the one that CUDA takes by itself."""
    return choice.gpus[0].uuid if choice.gpus and (len(choice.gpus) > 1 or choice.gpus[0].index) else None


def places(environment: Environment, choice: Choice) -> Mapping[Device, Place]:
    """Return the devices of a study, and where the workers of each run: of a single one where CUDA runs by itself.

    Where one image may use several GPUs, these are one device, known by the first of them. Raises Unavailable if there
    are too few.
    """
    import os

    from tuner.execution.launch import ANYWHERE, Place
    from tuner.hardware.gpus import share_cores
    from tuner.records.outcome import Device

    each = environment.devices
    if not choice.gpus:
        return {Device(name=environment.device): ANYWHERE}
    if len(choice.gpus) < each:
        raise Unavailable(f"--devices {each}: it needs {each} GPUs; idle, or chosen with --gpus: {len(choice.gpus)}")
    groups = [choice.gpus[first : first + each] for first in range(0, len(choice.gpus) - each + 1, each)]
    uuids = [",".join(gpu.uuid for gpu in group) for group in groups]
    devices = [Device(name=environment.device, index=group[0].index, uuid=group[0].uuid) for group in groups]
    if len(devices) == 1:
        return {devices[0]: ANYWHERE if first_uuid(choice) is None else Place(uuids[0])}
    near = [frozenset[int]().union(*(gpu.near for gpu in group)) for group in groups]
    parts = share_cores(near, frozenset(os.sched_getaffinity(0)))
    return {device: Place(uuid, cores) for device, uuid, cores in zip(devices, uuids, parts, strict=True)}


def left_over(choice: Choice, each: int) -> list[str]:
    """Return which of the chosen GPUs are too few for another image, since `each` of them compute one together."""
    used = len(choice.gpus) // each * each
    return [f"GPU {gpu.index} is left out: --devices {each} needs {each} for an image" for gpu in choice.gpus[used:]]

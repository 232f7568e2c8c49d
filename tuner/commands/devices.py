"""Which devices a study runs on, and how their workers are started."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tuner.errors import BadInput, Unavailable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from tuner.execution.executor import Executor
    from tuner.execution.launch import Launcher, Place
    from tuner.execution.ray.cluster import Cluster
    from tuner.files import StudyFolder
    from tuner.hardware.gpus import Choice, GpuModel, Trouble
    from tuner.records.machine import Environment
    from tuner.records.outcome import Device
    from tuner.study.store import Store

    Machines = Choice | Cluster
    """Where a study runs: on GPUs of this host, or in a cluster."""

    Check = Callable[[Device], Trouble | None]


def connect(options: argparse.Namespace, device: str, family: Environment | None = None) -> Cluster:
    """Connect to the Ray cluster of --ray, of one family of devices. Raises BadInput or Unavailable."""
    from tuner.execution.ray.cluster import connect as connect_to

    others = {"--gpus": options.gpus is not None, "--devices": getattr(options, "devices", 1) > 1}
    for name in (name for name, is_given in others.items() if is_given):
        raise BadInput(f"--ray {options.ray}: not together with {name}, which is for GPUs of one host")
    return connect_to(options.ray, device, family)


def choose_gpus(asked: str | None, device: str, kind: GpuModel | None = None) -> Choice:
    """Return the GPUs of --gpus, of this kind if there are such; none where the study runs on a CPU.

    Raises BadInput or Unavailable.
    """
    from tuner.hardware import environment, gpus

    visible = [] if device == "cpu" or environment.torch_cuda_version() is None else gpus.visible_gpus()
    if visible:
        return gpus.choose(asked, visible, kind)
    if asked is not None:
        reason = "a study on the CPU uses no GPUs" if device == "cpu" else environment.no_gpu_reason()
        raise Unavailable(f"--gpus {asked}: {reason}")
    return gpus.Choice()


def first_uuid(choice: Choice) -> str | None:
    """Return the UUID of the first GPU that was chosen, None where it is the one that CUDA takes by itself."""
    return choice.gpus[0].uuid if choice.gpus and (len(choice.gpus) > 1 or choice.gpus[0].index) else None


def places(environment: Environment, choice: Machines) -> Mapping[Device, Place]:
    """Return the devices of a study, and where the workers of each run: of a single one where CUDA runs by itself.

    Where one image may use several GPUs, these are one device, known by the first of them. Raises Unavailable if there
    are too few.
    """
    import os

    from tuner.execution.launch import ANYWHERE, Place
    from tuner.hardware.gpus import Choice, share_cores
    from tuner.records.outcome import Device

    if not isinstance(choice, Choice):
        return dict.fromkeys(choice.devices, ANYWHERE)
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


@contextlib.contextmanager
def opened(
    store: Store, machines: Machines, found: Mapping[Device, Place], slots: int
) -> Iterator[tuple[Executor, Check]]:
    """Yield the executor of a study, and what says what is wrong with a device."""
    from tuner.execution.local import LocalExecutor
    from tuner.hardware import gpus

    request = store.request
    if not isinstance(machines, gpus.Choice):
        with (
            contextlib.closing(machines),
            machines.opened(store.paths, request.model, request.quality.metric_paths, slots) as engine,
        ):
            yield engine
        return
    with LocalExecutor(list(found), launchers(found, store.paths), slots=slots) as executor:
        may_be_shared = machines.may_be_shared
        yield (
            executor,
            lambda device: gpus.trouble_of(device, found[device].uuids, may_be_shared=may_be_shared),
        )


def launchers(found: Mapping[Device, Place], paths: StudyFolder) -> dict[Device, Launcher]:
    """Return what starts the workers of each device: a template of its own; the compilers' cache is shared."""
    from tuner.execution.template import make_launcher

    return {device: make_launcher(paths.cache, paths.template_log, place) for device, place in found.items()}

"""Where a study runs: on GPUs or the CPU of this host, or on the devices of a Ray cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from tuner.commands.devices import left_over, places

if TYPE_CHECKING:
    from tuner.execution.executor import Executor
    from tuner.execution.launch import Launcher, Place
    from tuner.execution.ray.cluster import Cluster
    from tuner.files import StudyFolder
    from tuner.hardware.gpus import Choice, Trouble
    from tuner.records.machine import Environment
    from tuner.records.outcome import Device
    from tuner.study.store import Store

    Engine = tuple[Executor, Callable[[Device], Trouble | None]]
    """The executor of a study, and what says what is wrong with a device."""


class Machines(Protocol):
    """What a study runs on."""

    @property
    def asked(self) -> str | None:
        """The choice of GPUs as it was written, for `tune resume`."""
        ...

    def devices(self, environment: Environment) -> Sequence[Device]:
        """Return the devices. Raises Unavailable if there are too few."""
        ...

    def notes(self, environment: Environment) -> Iterator[str]:
        """Yield what the user should know of them before the study starts."""
        ...

    def opened(self, store: Store, slots: int) -> AbstractContextManager[Engine]:
        """Return a context with what runs the jobs of a study, up to `slots` at once on each device."""
        ...

    def close(self) -> None:
        """Give the devices back, whether or not they were used."""
        ...


class Host(Machines):
    """The chosen GPUs of this host, or its CPU."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice

    @property
    def asked(self) -> str | None:
        return self.choice.asked

    def devices(self, environment: Environment) -> Sequence[Device]:
        return list(places(environment, self.choice))

    def notes(self, environment: Environment) -> Iterator[str]:
        from tuner.hardware import telemetry
        from tuner.hardware.cpu_load import busy_warning
        from tuner.hardware.environment import gpu_usage

        yield from self.choice.left_out
        busy = busy_warning(environment.cpu_count) if environment.device == "cpu" else None
        if busy:
            yield busy
        for gpu in self.choice.gpus:
            warning = telemetry.other_users_warning(gpu_usage(gpu.uuid))
            if warning:
                yield warning if len(self.choice.gpus) == 1 else warning.replace("this GPU", f"GPU {gpu.index}")
        yield from left_over(self.choice, environment.devices)

    @contextlib.contextmanager
    def opened(self, store: Store, slots: int) -> Iterator[Engine]:
        from tuner.execution.local import LocalExecutor
        from tuner.hardware.gpus import trouble_of

        found, may_be_shared = places(store.request.environment, self.choice), self.choice.may_be_shared
        with LocalExecutor(list(found), launchers(found, store.paths), slots=slots) as executor:
            yield executor, lambda device: trouble_of(device, found[device].uuids, may_be_shared=may_be_shared)

    def close(self) -> None:
        """Do nothing: workers end with their executor."""


def launchers(found: Mapping[Device, Place], paths: StudyFolder) -> dict[Device, Launcher]:
    """Return what starts the workers of each device: a template of its own; the compilers' cache is shared."""
    from tuner.execution.template import make_launcher

    return {device: make_launcher(paths.cache, paths.template_log, place) for device, place in found.items()}


class InCluster(Machines):
    """The devices of one family in a Ray cluster."""

    def __init__(self, cluster: Cluster, asked: str | None) -> None:
        self.cluster = cluster
        self.gpus = asked

    @property
    def asked(self) -> str | None:
        return self.gpus

    def devices(self, environment: Environment) -> Sequence[Device]:
        return self.cluster.devices

    def notes(self, environment: Environment) -> Iterator[str]:
        yield from self.cluster.left_out
        for site in self.cluster.sites:
            if site.found.warning is not None:
                yield site.found.warning.replace("this GPU", site.device.title)

    def opened(self, store: Store, slots: int) -> AbstractContextManager[Engine]:
        request = store.request
        return self.cluster.opened(store.paths, request.model, request.quality.metric_paths, slots)

    def close(self) -> None:
        self.cluster.close()

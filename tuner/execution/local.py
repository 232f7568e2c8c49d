"""The executor of this machine: one worker process a job, in one or several slots a device."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tuner.execution.executor import Ended, Executor, Handle, StoodStill
from tuner.execution.launch import Launcher
from tuner.execution.process import WorkerProcess
from tuner.execution.turns import Turns
from tuner.records.outcome import Device
from tuner.records.protocol import Job, Message

POLL_S = 0.5
"""How often a silent worker is checked against its deadline."""


class LocalExecutor(Executor):
    """Runs each job in a process of its own on this machine, up to `slots` of them at once on a device.

    `launcher` starts the workers of all devices, or there is one for each. `folder` takes the jobs and the workers'
    logs, if that is not the folder of the job's first point.
    """

    def __init__(
        self, devices: Sequence[Device], launcher: Launcher | Mapping[Device, Launcher], folder: Path | None = None,
        slots: int = 1,
    ) -> None:  # fmt: skip
        self.devices = tuple(devices)
        self.launchers = launcher if isinstance(launcher, Mapping) else dict.fromkeys(self.devices, launcher)
        self.folder = folder
        self.running: dict[str, tuple[Handle, WorkerProcess]] = {}
        self.turns = {device: Turns(device, slots) for device in self.devices}
        self.selector = selectors.DefaultSelector()

    def free(self) -> Sequence[Device]:
        return [device for device, turns in self.turns.items() if turns.has_room]

    def submit(self, job: Job, device: Device) -> Handle:
        if device not in self.free():
            raise ValueError(f"{device.name}: this device is not free")
        handle = Handle(job, device)
        worker = WorkerProcess(job, self.folder or Path(job.points[0].folder), self.launchers[device])
        self.running[handle.id] = (handle, worker)
        self.turns[device].add(worker)
        self.selector.register(worker.pipe, selectors.EVENT_READ)
        return handle

    def wait(self, until: Callable[[], float]) -> Iterator[tuple[Handle, Message | StoodStill | Ended]]:
        while self.running:
            returns_at = until()
            self.selector.select(max(0.0, min(POLL_S, returns_at - time.monotonic())))
            is_silent = True
            for handle, worker in list(self.running.values()):
                if handle.id not in self.running:  # cancelled because of another job's message
                    continue
                for message in worker.messages():
                    is_silent = False
                    self.turns[handle.device].follow(worker, message)
                    yield handle, message
                    if handle.id not in self.running:  # cancelled because of this message
                        break
                if handle.id not in self.running:
                    continue
                if worker.is_pipe_closed:
                    self._stop_listening(worker)
                if worker.has_ended:
                    self.cancel(handle)
                    yield handle, Ended()
            if is_silent and time.monotonic() >= returns_at:
                return

    def provide(self, handle: Handle, job: Job) -> None:
        _, worker = self.running[handle.id]
        self.turns[handle.device].provide(worker, job)

    def cancel(self, handle: Handle) -> None:
        _, worker = self.running.pop(handle.id, (None, None))
        if worker is not None:
            self._stop_listening(worker)
            worker.kill()
            self.turns[handle.device].remove(worker)

    def _stop_listening(self, worker: WorkerProcess) -> None:
        if worker.pipe in self.selector.get_map():
            self.selector.unregister(worker.pipe)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        for turns in self.turns.values():
            turns.waiting.clear()
        for handle, _ in list(self.running.values()):
            self.cancel(handle)
        for turns in self.turns.values():
            turns.guard.close()
        for launcher in self.launchers.values():
            launcher.close()
        self.selector.close()

"""An executor that runs jobs in this process, by a function: for tests of whatever submits jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

from tuner.execution.executor import Ended, Executor, Handle, StoodStill
from tuner.records.outcome import Device
from tuner.records.protocol import Job, Message


class InlineExecutor(Executor):
    """Answers each job with the messages that `work` returns for it, one job after the other: turns mean nothing."""

    def __init__(
        self, work: Callable[[Job], Iterable[Message]], devices: Sequence[Device] = (Device(name="cpu"),),
        slots: int = 1,
    ) -> None:  # fmt: skip
        self.work = work
        self.slots = slots
        self.devices = tuple(devices)
        self.running: dict[str, Handle] = {}
        self.provided: dict[str, Job] = {}
        """The jobs with a reference, by handle. `work` was given the job without."""
        self.deadlines: list[float] = []
        """What `until` returned, before and after each message."""

    def free(self) -> Sequence[Device]:
        busy = [handle.device for handle in self.running.values()]
        return [device for device in self.devices if busy.count(device) < self.slots]

    def submit(self, job: Job, device: Device) -> Handle:
        if device not in self.free():
            raise ValueError(f"{device.name}: this device is not free")
        handle = Handle(job, device)
        self.running[handle.id] = handle
        return handle

    def wait(self, until: Callable[[], float]) -> Iterator[tuple[Handle, Message | StoodStill | Ended]]:
        self.deadlines.append(until())
        for handle in list(self.running.values()):
            if handle.id not in self.running:  # cancelled because of another job's message
                continue
            for message in self.work(handle.job):
                if handle.id not in self.running:
                    break
                yield handle, message
                self.deadlines.append(until())
            if self.running.pop(handle.id, None) is not None:
                yield handle, Ended()

    def provide(self, handle: Handle, job: Job) -> None:
        self.provided[handle.id] = job

    def cancel(self, handle: Handle) -> None:
        self.running.pop(handle.id, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.running.clear()

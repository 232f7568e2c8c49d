"""The executor interface: what a study asks of whatever runs its jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self
from uuid import uuid4

from tuner.records.outcome import Device
from tuner.records.protocol import Job, Message


@dataclass(frozen=True)
class Handle:
    """A submitted job, on the device that it runs on."""

    job: Job
    device: Device
    id: str = field(default_factory=lambda: uuid4().hex)


@dataclass(frozen=True)
class Ended:
    """The last event of a job that was not cancelled: its worker is gone and its device is free again."""


@dataclass(frozen=True)
class StoodStill:
    """An event of a job that goes on: it waited for its turn, or stood still during another's, for so many seconds."""

    seconds: float


class Executor(Protocol):
    """Runs jobs on devices, one or several on a device at a time.

    Every job that is not cancelled ends with exactly one `Ended`. A job that failed as a whole reports a `WorkerFailed`
    before that. From `TurnWanted`, when it is granted, to `TurnEnded` all other jobs of the device stand still. After
    `ReferenceWanted` a job stands still until it is provided with what it lacks.
    """

    def free(self) -> Sequence[Device]:
        """Return the devices on which another job may start now: on none where a job has its turn."""
        ...

    def submit(self, job: Job, device: Device) -> Handle:
        """Start a job on a free device and return at once. Raises ValueError if the device is not free."""
        ...

    def wait(self, until: Callable[[], float]) -> Iterator[tuple[Handle, Message | StoodStill | Ended]]:
        """Yield the messages of all running jobs as they arrive.

        Stops when no job runs any more, or when nothing arrives and `time.monotonic()` has reached `until()`. That is
        called again and again, because what a job reports may change how long it may run.
        """
        ...

    def provide(self, handle: Handle, job: Job) -> None:
        """Let a job that reported `ReferenceWanted` go on, with the reference that this one has."""
        ...

    def cancel(self, handle: Handle) -> None:
        """Kill a job with all that it started. Cancelling a job that has ended does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Cancel what still runs."""
        ...

"""The executor interface: what a study asks of whatever runs its jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self
from uuid import uuid4

from tuner.records.outcome import Device
from tuner.records.protocol import BuildDone, Job, Message


@dataclass(frozen=True)
class Handle:
    """A submitted job, on the device that it runs on."""

    job: Job
    device: Device
    id: str = field(default_factory=lambda: uuid4().hex)


@dataclass(frozen=True)
class Ended:
    """The last event of every job: its worker is gone and its device is free again."""


class Executor(Protocol):
    """Runs jobs on devices, one job a device at a time.

    Every job ends with exactly one `Ended`. A job that failed as a whole reports a `WorkerFailed` before that.
    """

    def free(self) -> Sequence[Device]:
        """Return the devices on which no job runs."""
        ...

    def submit(self, job: Job, device: Device) -> Handle:
        """Start a job on a free device and return at once."""
        ...

    def wait(self, until: float) -> Iterator[tuple[Handle, Message | Ended]]:
        """Yield the messages of all running jobs as they arrive.

        Stops when no job runs any more, or when nothing arrived before `time.monotonic()` reached `until`.
        """
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


def continues(job: Job, message: BuildDone) -> bool:
    """Return whether a worker goes on to measure its points: it stops if the gate did not pass the build."""
    verdict = message.build.verdict
    return job.is_baseline or verdict is None or verdict.status == "clean"

"""Write down what each worker does when, for the account of the time."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tuner.execution.executor import Ended, Executor, Handle, StoodStill
from tuner.records.codec import encode
from tuner.records.outcome import Device
from tuner.records.protocol import (
    BuildDone,
    Job,
    Message,
    NoiseFound,
    PointDone,
    PointFailed,
    PointLeftOut,
    StageStarted,
    WorkerFailed,
)
from tuner.records.stages import DONE, END, STILL, StageEntry, Who, read_stages
from tuner.search.budget import Budget

ANSWERS = (BuildDone, PointDone, PointFailed, PointLeftOut, NoiseFound, WorkerFailed)
"""The messages that end a stage. A worker that goes on enters the next one at once."""

MIN_STILL_S = 0.01
"""Where nothing else runs, a turn is granted at once."""


class StageLog:
    """The file that takes an entry for each stage, in the order in which they begin.

    A full disk ends the log, not the study: the next write of an outcome tells the user.
    """

    def __init__(self, path: Path, budget: Budget) -> None:
        """Take over the file of earlier runs, without a line that a crash tore. Raises BadInput if it is no log."""
        read_stages(path)
        drop_torn_line(path)
        self.path = path
        self.budget = budget
        self.is_writable = True

    @contextmanager
    def run(self) -> Iterator[None]:
        """Note that a run of the command begins, and that it ends."""
        self.enter("study", "run")
        try:
            yield
        finally:
            self.enter("study", END)

    @contextmanager
    def task(self, who: Who, stage: str) -> Iterator[None]:
        """Note work that no worker does, with its only stage."""
        self.enter(who, stage)
        try:
            yield
        finally:
            self.enter(who, END)

    def enter(self, who: Who, stage: str, number: int = 0, still_s: float = 0.0, point: int = 0) -> None:
        """Note that a stage begins."""
        at_s, used_s = round(self.budget.spent_s, 3), round(cpu_s(), 3)
        entry = StageEntry(
            at_s=at_s, cpu_s=used_s, who=who, stage=stage, number=number, still_s=round(still_s, 3), point=point
        )  # fmt: skip
        if self.is_writable:
            self.is_writable = append_line(self.path, encode(entry) + b"\n")


class LoggingExecutor(Executor):
    """Another executor, whose workers' stages are written down.

    A wrapper does not enter or close the executor that it wraps; the owner does.
    """

    def __init__(self, executor: Executor, log: StageLog) -> None:
        self.executor = executor
        self.log = log
        self.running: dict[str, tuple[Who, int]] = {}

    def free(self) -> Sequence[Device]:
        return self.executor.free()

    def submit(self, job: Job, device: Device) -> Handle:
        who, number = identify(job)
        self.log.enter(who, "start", number)
        handle = self.executor.submit(job, device)
        self.running[handle.id] = (who, number)
        return handle

    def wait(self, until: Callable[[], float]) -> Iterator[tuple[Handle, Message | StoodStill | Ended]]:
        for handle, message in self.executor.wait(until):
            self._follow(handle, message)
            yield handle, message

    def provide(self, handle: Handle, job: Job) -> None:
        self.executor.provide(handle, job)

    def cancel(self, handle: Handle) -> None:
        self._follow(handle, Ended())
        self.executor.cancel(handle)

    def _follow(self, handle: Handle, message: Message | StoodStill | Ended) -> None:
        known = self.running.get(handle.id)
        if known is None:
            return
        who, number = known
        if isinstance(message, StageStarted):
            self.log.enter(who, message.stage, number, point=message.index or 0)
        elif isinstance(message, StoodStill) and message.seconds >= MIN_STILL_S:
            self.log.enter(who, STILL, number, message.seconds)
        elif isinstance(message, ANSWERS):
            self.log.enter(who, DONE, number)
        elif isinstance(message, Ended):
            self.log.enter(who, END, number)
            del self.running[handle.id]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Do nothing: the owner of the other executor closes it."""


def identify(job: Job) -> tuple[Who, int]:
    """Return what a job is of a study, by the folder of its first point: a build's trial, or a repetition."""
    folder = Path(job.points[0].folder)
    return ("repetition" if folder.parent.name == "repetitions" else "build"), int(folder.name)


def append_line(path: Path, line: bytes) -> bool:
    """Append a line to a file, whole unless the disk is full. Returns whether it is whole."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            return os.write(descriptor, line) == len(line)
        finally:
            os.close(descriptor)
    except OSError:
        return False


def drop_torn_line(path: Path) -> None:
    """Cut off the end of a file of lines after its last whole one, if the file is there."""
    if path.exists():
        with os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def cpu_s() -> float:
    """Return the CPU seconds that this process has used, without those of its children."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

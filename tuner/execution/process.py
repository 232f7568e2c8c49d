"""One worker process: its start, its messages, its deadlines, and its end with everything that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil

from tuner.execution.executor import StoodStill
from tuner.execution.launch import UNKNOWN_EXIT, Launcher, Start, kill_marked
from tuner.execution.standstill import continue_tree, stop_tree
from tuner.files import atomic_write
from tuner.records.codec import encode_pretty
from tuner.records.outcome import Failure
from tuner.records.protocol import (
    Alive,
    BuildDone,
    Job,
    Message,
    PointDone,
    PointFailed,
    PointLeftOut,
    ReferenceWanted,
    StageStarted,
    TurnEnded,
    TurnWanted,
    WorkerFailed,
    continues,
    decode_message,
)

DEADLINES_S = {
    "load": 1800.0,
    "apply": 300.0,
    "compile": 900.0,
    "first call": 900.0,
    "warm up": 1200.0,
    "trace": 1200.0,
    "probe": 300.0,
    "time": 1200.0,
    "await": 1200.0,
    "score": 1200.0,
    "vary": 1200.0,
}
"""How long a worker may stay in a stage, or between two calls of the pipeline in it, before it counts as hung.

A job may give the first call less or more time."""

FIRST_CALL = ("compile", "first call")
"""The names of the stage of the first call: where something is compiled, and where nothing is."""


class WorkerProcess:
    """A worker and the pipe that it writes its messages to. `folder` takes the job and the worker's log."""

    def __init__(self, job: Job, folder: Path, launcher: Launcher) -> None:
        self.job = job
        self.start_limit_s = launcher.start_limit_s
        self.awaited = {point.index for point in job.points}
        """The points that the worker has not answered for."""
        self.has_ended = False
        self.is_pipe_closed = False
        self._buffer = b""
        self._lines: deque[bytes] = deque()
        self._mark = uuid.uuid4().hex
        folder.mkdir(parents=True, exist_ok=True)
        self.job_file = folder / "job.json"
        atomic_write(self.job_file, encode_pretty(job))
        self.pipe, writing = os.pipe()
        os.set_blocking(self.pipe, False)
        with (folder / "worker.log").open("ab") as log:
            self.process = launcher.start(Start(self.job_file, writing, log.fileno(), self._mark))
        os.close(writing)
        self._enter("start")
        self.waits_in_pair = False
        self.has_begun_pair = False
        """Whether it had a turn in its pair."""
        self._waits = False
        self._still_since: float | None = None
        """Since when the worker has waited for its turn or stood still."""
        self._must_stop = False
        self._stopped: list[psutil.Process] | None = None
        self._stood_still: deque[StoodStill] = deque()

    def messages(self) -> Iterator[Message | StoodStill]:
        """Yield what the worker wrote since the last call, and how long it stood still, without waiting for more.

        The last message is a `WorkerFailed` if the worker died, hung or ended before it answered for all its points.
        The end of the process counts, not the end of the pipe: a grandchild may hold that open.
        """
        code = self.process.poll()
        self._hold()
        is_silent = True
        while self._stood_still:
            yield self._stood_still.popleft()
        self._read()
        while self._lines:
            is_silent = False
            message = parse(self._lines.popleft(), self.stage)
            self._follow(message)
            yield message
        if code is not None:
            self.has_ended = True
            if self.awaited:
                self.awaited.clear()
                yield WorkerFailed(failure=name_death(code, self.stage))
        elif is_silent and not self.is_still and time.monotonic() >= self.entered + self._deadline_s():
            self.has_ended = True
            if self.awaited:
                self.awaited.clear()
                limit_s = self._deadline_s()
                text = f"still in stage {self.stage!r} after {limit_s:.0f} s"
                yield WorkerFailed(failure=Failure(kind="timeout", stage=self.stage, message=text, limit_s=limit_s))

    # ---- turns ------------------------------------------------------------------------------------------------------

    @property
    def is_still(self) -> bool:
        """Whether the worker waits for its turn or stands still: then no deadline counts."""
        return self._still_since is not None

    def stop(self) -> None:
        """Have the worker and all that it started stand still, also if it is only being started."""
        self._be_still()
        self._must_stop = True
        self._hold()

    def go_on(self) -> None:
        """Let the worker go on."""
        self._must_stop = False
        if self._stopped is not None and self.process.pid is not None:
            continue_tree(self.process.pid, self._stopped)
            self._stopped = None
        if self._still_since is not None and not self._waits:
            seconds, self._still_since = time.monotonic() - self._still_since, None
            self.entered += seconds
            self._stood_still.append(StoodStill(seconds))

    def grant(self) -> None:
        """Grant the worker the turn that it waits for."""
        self._waits = False
        self.has_begun_pair |= self.waits_in_pair
        self.go_on()
        self.process.grant()

    def provide(self, job: Job) -> None:
        """Write the job again for the worker, which waits for that and may go on when no other has its turn."""
        atomic_write(self.job_file, encode_pretty(job))
        self._waits = False
        self.process.grant()

    def _be_still(self) -> None:
        if self._still_since is None:
            self._still_since = time.monotonic()

    def _hold(self) -> None:
        """Stop the worker if it must be and is not: its process may not have been known before."""
        if self._must_stop and self._stopped is None and self.process.pid is not None:
            self._stopped = stop_tree(self.process.pid)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """Kill the worker and everything that it started, in its process group or out of it."""
        if self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        kill_marked(self._mark)
        self.process.release()
        os.close(self.pipe)

    def _enter(self, stage: str) -> None:
        self.stage, self.entered = stage, time.monotonic()

    def _deadline_s(self) -> float:
        limit_s = self.job.compile_limit_s
        if self.stage in FIRST_CALL and limit_s is not None:
            return limit_s
        return self.start_limit_s if self.stage == "start" else DEADLINES_S[self.stage]

    def _follow(self, message: Message) -> None:
        """Keep track of the stage that the worker is in, and of the points that it still has to answer for."""
        if isinstance(message, StageStarted):
            self._enter(message.stage)
        elif isinstance(message, (Alive, TurnEnded)):
            self.entered = time.monotonic()
        elif isinstance(message, TurnWanted):
            self._waits, self.waits_in_pair = True, message.in_pair
            self._be_still()
        elif isinstance(message, ReferenceWanted):
            self._waits = True
            self._be_still()
        elif isinstance(message, (PointDone, PointFailed, PointLeftOut)):
            self.awaited.discard(message.index)
        elif isinstance(message, WorkerFailed) or (
            isinstance(message, BuildDone) and not continues(self.job, message.build)
        ):
            self.awaited.clear()

    def _read(self) -> None:
        """Take all lines that the pipe holds."""
        while not self.is_pipe_closed:
            try:
                data = os.read(self.pipe, 1 << 16)
            except BlockingIOError:
                return
            self.is_pipe_closed = not data
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            self._lines.extend(lines)


def parse(line: bytes, stage: str) -> Message:
    """Return the message on a line, or a failure if the line is not a message, as when a figure is NaN."""
    try:
        return decode_message(line)
    except msgspec.DecodeError as error:
        message = f"the worker sent an invalid message ({error}): {line[:80]!r}"
        return WorkerFailed(failure=Failure(kind="error", stage=stage, message=message))


def name_death(code: int, stage: str) -> Failure:
    """Return the failure of a worker that died before it could report one."""
    if code >= 0:
        return Failure(kind="crash", stage=stage, message=f"the worker exited with code {code} before it finished")
    if code == UNKNOWN_EXIT:
        return Failure(kind="crash", stage=stage, message="the worker ended after the process that had forked it")
    name = signal.Signals(-code).name
    hint = "; the system sends it when memory runs out" if name == "SIGKILL" else ""
    return Failure(kind="crash", stage=stage, message=f"the worker was killed by {name}{hint}")

"""The worker's messages to the parent, and the turns in which it has the device to itself."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Semaphore
from typing import Any

from tuner.knobs import NoEffect
from tuner.records.codec import Estimate, Record, encode, read
from tuner.records.outcome import Failure
from tuner.records.protocol import (
    Job,
    Message,
    ReferenceWanted,
    StageStarted,
    TurnEnded,
    TurnWanted,
)
from tuner.worker.failures import name_failure, one_line
from tuner.worker.remedies import remedy


def send_line(descriptor: int, record: Record) -> None:
    """Write a record to a pipe as one line of JSON."""
    line = encode(record) + b"\n"
    while line:
        line = line[os.write(descriptor, line) :]


class Channel:
    """Messages to the parent. The last stage entered is remembered, so that a failure can name it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.stage = "start"
        self.arguments: Mapping[str, Any] = {}
        """The arguments of the pipeline's calls, one of which an error may be about."""

        self.granted: Semaphore | None = None
        """The turns that the parent has granted; None without a parent that does."""
        self.job_file: Path | None = None
        self._has_turn = False

    def send(self, message: Message) -> None:
        """Write a message as one line of JSON."""
        send_line(self.descriptor, message)

    def enter(self, stage: str, index: int | None = None) -> None:
        """Report that a stage begins, of one call point if `index` is set."""
        self.stage = stage
        self.send(StageStarted(stage=stage, index=index))

    @contextlib.contextmanager
    def turn(self, *, in_pair: bool = False) -> Iterator[None]:
        """Have the device alone meanwhile, for what must not be disturbed. A turn within a turn is the same."""
        had_turn = self._has_turn
        self.take_turn(in_pair=in_pair)
        try:
            yield
        finally:
            if not had_turn:
                self.end_turn()

    def take_turn(self, *, in_pair: bool = False) -> None:
        """Wait until the parent grants a turn, unless this worker has one."""
        if self.granted is not None and not self._has_turn:
            self.send(TurnWanted(in_pair=in_pair))
            self.granted.acquire()
            self._has_turn = True

    def end_turn(self) -> None:
        """Let the others on the device go on."""
        if self._has_turn:
            self._has_turn = False
            self.send(TurnEnded())

    def await_reference(self, seconds_per_image: Estimate) -> Job:
        """Wait until the parent has written the job again, with the baseline's images, and return it."""
        assert self.granted is not None and self.job_file is not None and not self._has_turn
        self.send(ReferenceWanted(seconds_per_image=seconds_per_image))
        self.granted.acquire()
        return read(self.job_file, Job)

    def failure(self, error: BaseException) -> Failure:
        """Log an error's traceback and return the failure that it means."""
        with contextlib.suppress(OSError):  # the disk that the log is on may be what is full
            traceback.print_exception(error)
        return Failure(
            kind=name_failure(error), stage=self.stage, message=one_line(error), remedy=remedy(error, self.arguments),
            knob=error.knob if isinstance(error, NoEffect) else None,
        )  # fmt: skip

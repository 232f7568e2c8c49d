"""The worker's messages to the parent."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Mapping
from typing import Any

from tuner.records.codec import encode
from tuner.records.outcome import Failure
from tuner.records.protocol import (
    Message,
    StageStarted,
)
from tuner.worker.failures import name_failure, one_line
from tuner.worker.remedies import remedy


class Channel:
    """Messages to the parent. The last stage entered is remembered, so that a failure can name it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.stage = "start"
        self.arguments: Mapping[str, Any] = {}
        """The arguments of the pipeline's calls, one of which an error may be about."""

    def send(self, message: Message) -> None:
        """Write a message as one line of JSON."""
        line = encode(message) + b"\n"
        while line:
            line = line[os.write(self.descriptor, line) :]

    def enter(self, stage: str, index: int | None = None) -> None:
        """Report that a stage begins, of one call point if `index` is set."""
        self.stage = stage
        self.send(StageStarted(stage=stage, index=index))

    def failure(self, error: BaseException) -> Failure:
        """Log an error's traceback and return the failure that it means."""
        with contextlib.suppress(OSError):  # the disk that the log is on may be what is full
            traceback.print_exception(error)
        return Failure(
            kind=name_failure(error), stage=self.stage, message=one_line(error), remedy=remedy(error, self.arguments)
        )

"""A rank beside a worker's first: loads and changes the pipeline as that one does, and makes each of its calls."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import psutil

from tuner.knobs import apply_knobs, call_arguments
from tuner.knobs.parallel import device_count
from tuner.model import pipeline
from tuner.records.protocol import Job, WorkerFailed
from tuner.records.ranks import Command, Draw, Join, Peak, ReportPeak, ResetPeak, Traced
from tuner.worker import peak
from tuner.worker.channel import Channel, send_line
from tuner.worker.group import find_store, join_group
from tuner.worker.weights import Weights


def follow(job: Job, weights: Weights, rank: int, commands: int, reports: int) -> NoReturn:
    """Obey commands until their pipe closes, then end this process and all that it started."""
    code, channel = 1, Channel(reports)
    try:
        Follower(job, weights, rank, channel, read_commands(commands)).run()
    except BaseException as error:
        channel.send(WorkerFailed(failure=channel.failure(error)))
        threading.Event().wait()  # rank 0 ends this process; to die now could look like the cause
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def read_commands(descriptor: int) -> queue.SimpleQueue[Any]:
    """Read commands in a thread of its own, which ends the process when rank 0 is gone, whatever it is waiting for."""
    received: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def read() -> None:
        with os.fdopen(descriptor, "rb") as lines:
            for line in lines:
                received.put(msgspec.json.decode(line, type=Command))
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return received


class Follower:
    """The pipeline of a rank, and the commands that it obeys."""

    def __init__(
        self, job: Job, weights: Weights, rank: int, channel: Channel, commands: queue.SimpleQueue[Any]
    ) -> None:
        self.job = job
        self.rank = rank
        self.channel = channel
        self.commands = commands
        self.weights = weights

    def run(self) -> NoReturn:
        """Load the pipeline, join the group, apply the knobs, and obey."""
        job, self.channel.stage = self.job, "load"
        if job.environment.device == "cuda":
            import torch

            torch.cuda.set_device(self.rank)
        self.weights.lender = None  # what it lends lies on the first device
        self.pipe = self.weights.load(job)
        self.channel.stage = "apply"
        self.join(self.commands.get())
        apply_knobs(self.pipe, job.build, job.environment)
        while True:
            self.obey(self.commands.get())

    def join(self, command: Join) -> None:
        """Join the group that rank 0 opened."""
        join_group(find_store(command.port), self.rank, device_count(self.job.build), self.job.environment.device)

    def obey(self, command: Any) -> None:
        """Do what rank 0 does now."""
        if isinstance(command, Draw):
            self.channel.stage = "call"
            if command.trace_folder is None:
                self.draw(command, command.steps)
            else:
                self.trace(command, Path(command.trace_folder))
        elif isinstance(command, ResetPeak):
            peak.reset(self.job)
        elif isinstance(command, ReportPeak):
            send_line(self.channel.descriptor, Peak(memory=peak.read(self.job)))

    def draw(self, command: Draw, steps: int) -> object:
        """Make a call of the pipeline as rank 0 does, whose images are the same."""
        arguments = call_arguments({**self.job.build, "steps": steps, "batch": command.batch})
        return pipeline.generate(
            self.pipe, self.job.workload, command.indices, arguments, output_type=command.output_type
        )

    def trace(self, command: Draw, folder: Path) -> None:
        """Make a call under the profiler, and report the file with its trace."""
        from tuner.trace import capture

        call = partial(self.draw, command)
        file = capture.capture(call, self.pipe.scheduler, folder, f"denoise-rank{self.rank}")
        send_line(self.channel.descriptor, Traced(file=str(file)))

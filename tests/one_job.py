"""One job by itself, in a worker process of its own: for tests and measurements without a study."""

from __future__ import annotations

import math
from pathlib import Path

from tuner.execution.executor import Ended, StoodStill
from tuner.execution.launch import FreshLauncher, Launcher
from tuner.execution.local import LocalExecutor
from tuner.records.outcome import Device
from tuner.records.protocol import Job, Message


def run_job(job: Job, cache: Path, folder: Path | None = None, launcher: Launcher | None = None) -> list[Message]:
    """Run one job to its end and return its messages. `folder` is that of LocalExecutor."""
    launcher = launcher or FreshLauncher(cache)
    with LocalExecutor([Device(name=job.environment.device)], launcher, folder) as executor:
        executor.submit(job, executor.devices[0])
        events = [event for _, event in executor.wait(lambda: math.inf)]
        return [event for event in events if not isinstance(event, (StoodStill, Ended))]

"""Jobs in workers that a template forks: what a worker of its own imports takes longer than most jobs of tests."""

from __future__ import annotations

from pathlib import Path

from one_job import run_job

from tuner.execution.template import TemplateLauncher
from tuner.records.protocol import Job, Message


class SharedLauncher(TemplateLauncher):
    """A launcher that outlives the executors that use it."""

    def close(self) -> None:
        """Leave the template to the next executor."""


class ForkedWorkers:
    """Runs jobs, one after the other, from one template."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "cache"
        self.launcher = SharedLauncher(self.cache, folder / "template.log")

    def run(self, job: Job, folder: Path) -> list[Message]:
        return run_job(job, self.cache, folder, self.launcher)

    def close(self) -> None:
        TemplateLauncher.close(self.launcher)

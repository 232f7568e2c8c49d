"""Run one configuration in a fresh worker, through an executor."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from tuner.execution.executor import Executor
from tuner.quality.race import FIRST_PROMPTS
from tuner.records.gate import Allowance
from tuner.records.machine import Environment
from tuner.records.model import Workload
from tuner.records.outcome import Build, Failure, Timing
from tuner.records.protocol import BuildDone, Job, Point, PointDone, PointFailed, WorkerFailed
from tuner.records.quality import Quality
from tuner.result.records import BestConfig, MeasuredPoint
from tuner.search.history import BASELINE
from tuner.space.candidates import build_values
from tuner.verify.recorded import Recorded

TIME, SCORE = 0, 1
"""The points of a job: the calls are timed first, so that images which fail do not cost the latency."""


@dataclass
class Run:
    """What a worker reported of one configuration."""

    build: Build | None = None
    timing: Timing | None = None
    quality: Quality | None = None
    failure: Failure | None = None
    score_failure: Failure | None = None
    has_recorded_images: bool = False
    """Whether a spot check found the images of the record, so that its verdict on them stands."""

    @property
    def was_rejected(self) -> bool:
        """Whether the gate rejected the build."""
        verdict = self.build.verdict if self.build else None
        return verdict is not None and verdict.status == "rejected"


class Bench:
    """Runs points of a best_config.json, one worker after the other, in folders of its own.

    With `spot_check` images that are still those of the record are not judged again.
    """

    def __init__(
        self, executor: Executor, best: BestConfig, here: Environment, recorded: Recorded, folder: Path,
        allowance_s: float, *, spot_check: bool = False,
    ) -> None:  # fmt: skip
        self.executor = executor
        self.best = best
        self.here = here
        self.recorded = recorded
        self.folder = folder
        self.allowance_s = allowance_s
        self.spot_check = spot_check
        self.allowed: tuple[Allowance, ...] = recorded.allowed
        self.runs = 0

    def run(self, point: MeasuredPoint, *, trace: bool = False, score: bool = False, is_baseline: bool = False) -> Run:
        """Measure a point in a fresh process. `is_baseline` measures it whatever the gate finds."""
        run = Run()
        handle = self.executor.submit(self.job(point, trace, score, is_baseline), self.executor.free()[0])
        for _, message in self.executor.wait(lambda: math.inf):
            if isinstance(message, BuildDone):
                run.build = message.build
            elif isinstance(message, PointDone):
                run.timing = run.timing or message.timing
                run.quality = message.quality or run.quality
                run.has_recorded_images |= message.index == SCORE and message.quality is None
            elif isinstance(message, PointFailed):
                name = "score_failure" if message.index == SCORE else "failure"
                setattr(run, name, message.failure)
            elif isinstance(message, WorkerFailed):
                run.failure = message.failure
        self.executor.cancel(handle)
        return run

    def job(self, point: MeasuredPoint, trace: bool, score: bool, is_baseline: bool) -> Job:
        """Return what the worker is asked to do."""
        recorded, self.runs = self.recorded, self.runs + 1
        folder = self.folder / f"{self.runs:04}"
        is_scored = score and recorded.reference is not None
        return Job(
            model=self.best.model,
            study_pid=os.getpid(),
            environment=self.here,
            workload=self._workload(point),
            build=build_values(point.values),
            points=(self._point(point, folder, TIME), *([self._point(point, folder, SCORE)] if is_scored else [])),
            allowance_s=self.allowance_s,
            reference=recorded.reference if is_scored else None,
            trace=trace,
            gate=recorded.gate,
            allowed=self.allowed,
            quality=recorded.quality,
            tolerance=self.best.quality_tolerance,
            is_baseline=is_baseline,
        )

    def _workload(self, point: MeasuredPoint) -> Workload:
        """Return what is generated: of the untouched pipeline few images, which tell whether it is still the model."""
        workload = self.recorded.workload
        return workload.first(max(FIRST_PROMPTS, point.batch)) if point.trial == BASELINE else workload

    def _point(self, point: MeasuredPoint, folder: Path, index: int) -> Point:
        own = folder if index == TIME else folder / "images"
        is_checked = self.spot_check and index == SCORE and point.trial != BASELINE
        return Point(
            index=index,
            folder=str(own),
            steps=int(point.values["steps"]),
            batch=point.batch,
            score=index == SCORE,
            spot_check=self.recorded.known_images(point.trial) if is_checked else None,
            whole=True,
        )

    def learn_allowances(self) -> bool:
        """Trace the untouched pipeline; what it does itself is allowed from now on. Return whether that is new."""
        run = self.run(self.best.baseline, trace=True, is_baseline=True)
        verdict = run.build.verdict if run.build else None
        before, self.allowed = self.allowed, verdict.as_allowances() if verdict else ()
        return any(allowance not in before for allowance in self.allowed)

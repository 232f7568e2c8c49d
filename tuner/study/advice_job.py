"""Measure of the untouched pipeline what advice needs: trace, roofline and components, without any image."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

from tuner.errors import StudyFailed
from tuner.execution.executor import Executor
from tuner.records.outcome import Build, Failure, Outcome, Timing
from tuner.records.protocol import BuildDone, Job, Point, PointDone, PointFailed, StageStarted, WorkerFailed
from tuner.search.request import Request
from tuner.space.candidates import build_key, build_values, image_key

ALLOWANCE_S = 5.0
"""Seconds that timing may take, and at least some calls."""


def advice_job(request: Request, folder: Path) -> Job:
    """Return the job of a worker that measures the untouched pipeline and generates no images to score."""
    values = request.space.candidate({})
    point = Point(index=0, folder=str(folder), steps=int(values["steps"]), batch=int(values["batch"]), score=False)
    return Job(
        model=request.model,
        environment=request.environment,
        workload=request.space.workload,
        build=build_values(values),
        points=(point,),
        gate=request.space.gate,
        is_baseline=True,
        probe=True,
        allowance_s=ALLOWANCE_S,
        study_pid=os.getpid(),
    )


def measure_untouched(request: Request, executor: Executor, folder: Path, alive: Callable[[str], None]) -> Outcome:
    """Measure the untouched pipeline in a worker, and return what is known of it as a trial.

    `alive` is told of each stage. Raises StudyFailed with the reason if it has no result.
    """
    build: Build | None = None
    timing: Timing | None = None
    executor.submit(advice_job(request, folder), executor.free()[0])
    for _, message in executor.wait(lambda: math.inf):
        if isinstance(message, StageStarted):
            alive(message.stage)
        elif isinstance(message, BuildDone):
            build = message.build
        elif isinstance(message, PointDone):
            timing = message.timing
        elif isinstance(message, (PointFailed, WorkerFailed)):
            raise StudyFailed(failure_text(message.failure))
    if build is None or timing is None:
        raise StudyFailed("the untouched pipeline was not measured: its worker ended without a result")
    values = request.space.candidate({})
    return Outcome(
        number=0, purpose="baseline", values=values, build_key=build_key(values), image_key=image_key(values),
        status="measured", build=build, timing=timing,
    )  # fmt: skip


def failure_text(failure: Failure) -> str:
    """Return why the untouched pipeline has no result, and what may help."""
    remedy = f"; try {failure.remedy}" if failure.remedy else ""
    return f"the untouched pipeline has no result: {failure.stage}: {failure.message}{remedy}"

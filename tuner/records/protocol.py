"""Records that cross between the parent and a worker: the job, and the worker's messages."""

from __future__ import annotations

import msgspec

from tuner.records.codec import Record, Values
from tuner.records.gate import Allowance, GatePolicy
from tuner.records.machine import Environment, Memory
from tuner.records.model import Model, Workload
from tuner.records.outcome import Build, Failure, Timing
from tuner.records.quality import NoiseFloor, Quality, QualityPolicy, Reference, SpotCheck


class Point(Record):
    """One call point to measure on a built pipeline: its place in the job, its folder, and what to do about its
    images: score them, compare a few with those of `spot_check` and score only if they differ, or neither.

    With `predict` its latency is computed from two or more points of the job before it, where that can be done.
    """

    index: int
    folder: str
    steps: int
    batch: int
    score: bool = True
    spot_check: SpotCheck | None = None
    predict: bool = False


class Job(Record):
    """What a worker process is asked to do: one build and the call points to measure on it, in order.

    `allowed` is what the untouched pipeline does of itself in each step. The baseline is measured whatever it does.
    With `probe` the worker also finds out what bounds a step on this device. `tolerance` is how much worse than the
    baseline's a mean score is still as good. `compile_limit_s` shortens the deadline of the first call.
    """

    model: Model
    environment: Environment
    workload: Workload
    build: Values
    points: tuple[Point, ...]
    allowance_s: float
    compile_limit_s: float | None = None
    reference: Reference | None = None
    trace: bool = True
    gate: GatePolicy = GatePolicy()
    allowed: tuple[Allowance, ...] = ()
    quality: QualityPolicy = QualityPolicy()
    tolerance: float | None = None
    is_baseline: bool = False
    probe: bool = False


class StageStarted(Record, tag="stage"):
    """A worker's message: it enters a stage, of the call point `index` if there is one."""

    stage: str
    index: int | None = None


class BuildDone(Record, tag="build"):
    """A worker's message: the pipeline is built, warm and judged."""

    build: Build


class PointDone(Record, tag="point"):
    """A worker's message: one call point is measured. `quality` is absent when its images passed the spot check, or
    when none were asked for."""

    index: int
    timing: Timing
    memory: Memory
    quality: Quality | None


class PointFailed(Record, tag="point_failed"):
    """A worker's message: one call point failed, the build is still healthy."""

    index: int
    failure: Failure


class NoiseFound(Record, tag="noise"):
    """A worker's message: one more variation of the untouched pipeline's rounding, drawn when all points were done."""

    noise: NoiseFloor


class Alive(Record, tag="alive"):
    """A worker's message: another call of the pipeline came back, the stage goes on."""


class WorkerFailed(Record, tag="failed"):
    """A worker's message: the whole build failed, and the process is about to end."""

    failure: Failure


Message = StageStarted | Alive | BuildDone | PointDone | PointFailed | NoiseFound | WorkerFailed


def decode_message(data: bytes) -> Message:
    """Read one line that a worker wrote."""
    message: Message = msgspec.json.decode(data, type=Message)
    return message

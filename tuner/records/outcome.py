"""Records of a trial: its build, timing, failure and outcome."""

from __future__ import annotations

import sys
from typing import Literal

from tuner.records.codec import Estimate, Record, Values
from tuner.records.gate import TraceSummary, Verdict
from tuner.records.machine import GpuUse, Memory, Roofline
from tuner.records.quality import Quality

FailureKind = Literal[
    "out of memory",
    "timeout",
    "crash",
    "compile error",
    "recompile",
    "invalid image",
    "no effect",
    "throttled",
    "unavailable",
    "inconclusive trace",
    "disk full",
    "interrupted",
    "error",
]

Purpose = Literal["baseline", "recipe", "search", "confirm"]

Status = Literal["measured", "rejected", "failed"]


class Limits(Record):
    """When a study ends: after so many seconds of trials, or so many recorded trials, whichever comes first."""

    budget_s: float
    max_trials: int | None

    def cover(self, other: Limits) -> bool:
        """Whether the others are no wider than these."""
        trials, wanted = (limits.max_trials or sys.maxsize for limits in (self, other))
        return self.budget_s >= other.budget_s and trials >= wanted


class Build(Record):
    """How a pipeline was built: what each knob really changed, how long it took, and the gate's verdict.

    `first_call_s` is the call that compiles, `compile_s` what it took longer than a warm call of the same point. Code
    that an earlier trial of the study compiled is taken from its cache. `roofline` is there where it was asked for.
    """

    changes: dict[str, str]
    load_s: float
    apply_s: float
    first_call_s: float
    trace: TraceSummary | None
    verdict: Verdict | None
    compile_s: float | None = None
    roofline: Roofline | None = None


class WarmUp(Record):
    """How many calls warmed a build up, whether by then nothing was compiled and the time no longer fell, and the
    seconds of the last of them."""

    calls: int
    settled: bool
    last_call_s: float | None = None


class Components(Record):
    """Where the seconds of one call go, by the device's clock, in a call apart from the timed ones.

    A part that the pipeline does not have is absent; `rest_s` is what lies outside all parts.
    """

    total_s: float
    text_encoders_s: float | None
    denoiser_s: float | None
    vae_s: float | None
    rest_s: float


class Timing(Record):
    """Latency of one call (of `batch` images) by the host's clock, profiler off, and why sampling stopped.

    `device_s` is the same by CUDA's events; it and `gpu` are absent on a CPU. `latency_p95_s`, the 95th percentile, is
    there where the samples of one process are enough to bound it. `within_target` is the share of the samples that met
    the workload's latency target, absent without one. Of a predicted latency `predicted_from` are the step counts that
    were measured, there are no samples, and `generation_s` is what the calls took that drew its images.
    """

    latency_s: Estimate
    samples: int
    images_per_s: float
    stopped: Literal["interval within target", "time allowance spent", "predicted"]
    warm_up: WarmUp | None = None
    device_s: Estimate | None = None
    latency_p95_s: float | None = None
    components: Components | None = None
    gpu: GpuUse | None = None
    predicted_from: tuple[int, ...] | None = None
    within_target: float | None = None
    generation_s: Estimate | None = None


class StepCost(Record):
    """What a call of a build costs: seconds whatever the steps, and seconds for each step.

    The two estimates vary together: `covariance_s2` says how, so that the interval of a prediction can be told.
    """

    fixed_s: Estimate
    per_step_s: Estimate
    covariance_s2: float
    measured_at: tuple[int, ...]


class PredictionCheck(Record):
    """A predicted latency beside what fresh processes measured; `error` is the share that it says too much, and `held`
    whether the two differ by no more than their intervals and the spread between processes explain."""

    trial: int
    predicted_s: Estimate
    measured_s: Estimate
    error: float
    held: bool


class Failure(Record):
    """Why a trial has no result. `stage` is where it happened, `log` the file to read."""

    kind: FailureKind
    stage: str
    message: str
    log: str = "worker.log"


class Device(Record):
    """A device that runs one job at a time, like "cuda" or "cpu"."""

    name: str


class Pair(Record):
    """A baseline and a candidate measured in turn, each in a fresh process.

    `candidate` is the candidate's trial. `index` counts its pairs from 0.
    """

    candidate: int
    index: int


class Outcome(Record):
    """What a trial showed.

    Of a repetition, which measures a trial's latency again in a fresh process, `number` is the trial, `repetition` its
    id within the study, and `pair` the pair that it belongs to, if any. `device` is the one that it ran on.
    """

    number: int
    purpose: Purpose
    values: Values
    build_key: str
    image_key: str
    status: Status
    recipe: str | None = None
    repetition: int | None = None
    pair: Pair | None = None
    device: Device | None = None
    build: Build | None = None
    timing: Timing | None = None
    memory: Memory | None = None
    quality: Quality | None = None
    failure: Failure | None = None
    cost_usd_per_1000_images: float | None = None
    wall_s: float = 0.0

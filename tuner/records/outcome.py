"""Records of a trial: its build, timing, failure and outcome."""

from __future__ import annotations

import math
import sys
from typing import Literal

from tuner.records.codec import (
    Count,
    Estimate,
    NonNegative,
    Number,
    Positive,
    PositiveCount,
    Rate,
    Record,
    Seconds,
    Share,
    Values,
)
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
    """When a study ends: after `budget_s` seconds of trials or `max_trials` recorded trials, whichever comes first.

    Without `budget_s` a budget is chosen once a call was timed.
    """

    budget_s: NonNegative | None
    max_trials: PositiveCount | None

    def cover(self, other: Limits) -> bool:
        """Return whether `other` allows no more time and no more trials than these limits."""
        trials, other_trials = (limits.max_trials or sys.maxsize for limits in (self, other))
        budget_s, other_budget_s = (
            math.inf if limits.budget_s is None else limits.budget_s for limits in (self, other)
        )
        return budget_s >= other_budget_s and trials >= other_trials


class Build(Record):
    """How a pipeline was built: what each knob changed, how long it took, and the gate's verdict.

    `first_call_s` is the time of the first call, which compiles. `compile_s` is how much longer it took than a warm
    call of the same point, 0 if nothing is compiled. Code that an earlier trial of the study compiled comes from its
    cache. `roofline` is None unless the job asked for it.
    """

    changes: dict[str, str]
    load_s: Seconds
    apply_s: Seconds
    first_call_s: Seconds
    trace: TraceSummary | None
    verdict: Verdict | None
    compile_s: Seconds | None = None
    roofline: Roofline | None = None


class WarmUp(Record):
    """The warm-up of a build: its number of calls and the seconds of the last one.

    It is `settled` if by then nothing was compiled any more and the time no longer fell.
    """

    calls: Count
    settled: bool
    last_call_s: Seconds | None = None


class Components(Record):
    """How the time of one call divides between components, by the device's clock, in a call apart from the timed ones.

    A component that the pipeline does not have is None. `rest_s` is the time outside all components, of which
    `between_steps_s` passed between the denoiser's first call and its last. `denoiser_calls` is how often it was
    called.
    """

    total_s: Seconds
    text_encoders_s: Seconds | None
    denoiser_s: Seconds | None
    vae_s: Seconds | None
    rest_s: Seconds
    denoiser_calls: PositiveCount | None = None
    between_steps_s: Seconds | None = None


class Timing(Record):
    """Latency of one call (of `batch` images) by the host's clock without a profiler, and why sampling stopped.

    `device_s` is the same by CUDA events. It and `gpu` are None on a CPU. `latency_p95_s`, the 95th percentile, is None
    if the samples of one process are too few to bound it. `within_target` is the share of the samples that met the
    workload's latency target, None without a target. A predicted latency has no samples: `predicted_from` are the step
    counts that were measured, and `generation_s` is the latency of the calls that generated its images. `stalled_calls`
    took a second or more longer than the others, and do not count. `devices` computed each image together.
    """

    latency_s: Estimate
    samples: Count
    images_per_s: Rate
    stopped: Literal["interval within target", "time allowance spent", "predicted"]
    warm_up: WarmUp | None = None
    device_s: Estimate | None = None
    latency_p95_s: Seconds | None = None
    components: Components | None = None
    gpu: GpuUse | None = None
    predicted_from: tuple[PositiveCount, ...] | None = None
    within_target: Share | None = None
    generation_s: Estimate | None = None
    stalled_calls: Count = 0
    devices: PositiveCount = 1

    def __post_init__(self) -> None:
        require_latency(latency_s=self.latency_s, device_s=self.device_s, generation_s=self.generation_s)


MAX_LATENCY_S = 1e8


def require_latency(**fields: Estimate | None) -> None:
    """Check that latencies are above 0 s and at most three years. The interval of a predicted one may reach below 0.

    Raises ValueError with the field if one is not.
    """
    for name, latency_s in fields.items():
        if latency_s is not None and not (
            latency_s.value > 0 and -MAX_LATENCY_S <= latency_s.low <= latency_s.high <= MAX_LATENCY_S
        ):
            raise ValueError(f"{name}: {latency_s.value} [{latency_s.low}, {latency_s.high}] is no latency in seconds")


class StepCost(Record):
    """The latency of a build's call as a line: seconds whatever the steps, and seconds per step.

    The two estimates are correlated. `covariance_s2` is their covariance, for the interval of a prediction.
    """

    fixed_s: Estimate
    per_step_s: Estimate
    covariance_s2: Number
    measured_at: tuple[PositiveCount, ...]


class PredictionCheck(Record):
    """A predicted latency beside what fresh processes measured.

    `error` is the share by which the prediction is too high. It `held` if the two differ by no more than their
    intervals and the spread between processes explain.
    """

    trial: Count
    predicted_s: Estimate
    measured_s: Estimate
    error: Number
    held: bool

    def __post_init__(self) -> None:
        require_latency(predicted_s=self.predicted_s, measured_s=self.measured_s)


class Failure(Record):
    """Why a trial has no result: the stage that failed, the log file with the details, and a setting that may help.

    After a timeout `limit_s` is how long the stage was given. `knob` names the knob that changed nothing.
    """

    kind: FailureKind
    stage: str
    message: str
    log: str = "worker.log"
    remedy: str | None = None
    limit_s: NonNegative | None = None
    knob: str | None = None


class Device(Record):
    """A device that jobs run on, "cuda" or "cpu".

    `uuid` is CUDA's name of a GPU: it identifies it, since the `index` among those that are visible can change. `node`
    is the machine's name in a cluster, None on this one.
    """

    name: str
    index: Count = 0
    uuid: str | None = None
    node: str | None = None

    @property
    def identity(self) -> tuple[object, ...]:
        """What two records of the same device have in common."""
        return (self.name, self.node, self.index) if self.uuid is None else (self.name, self.uuid)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    @property
    def title(self) -> str:
        """The name of the device in texts."""
        title = f"{'GPU' if self.name == 'cuda' else self.name} {self.index}"
        return title if self.node is None else f"{title} of {self.node}"


class Pair(Record):
    """A baseline and a candidate measured in turn, each in a fresh process.

    `candidate` is the candidate's trial. `index` counts its pairs from 0.
    """

    candidate: Count
    index: Count


class Outcome(Record):
    """The result of a trial.

    Of a repetition, which measures a trial's latency again in a fresh process, `number` is the trial, `repetition` its
    id within the study, and `pair` the pair that it belongs to, if any. `device` is the one that it ran on.
    `skipped_share` is the share of its images' steps in which a cache skipped work, None without a cache.
    """

    number: Count
    purpose: Purpose
    values: Values
    build_key: str
    image_key: str
    status: Status
    recipe: str | None = None
    repetition: Count | None = None
    pair: Pair | None = None
    device: Device | None = None
    build: Build | None = None
    timing: Timing | None = None
    memory: Memory | None = None
    quality: Quality | None = None
    failure: Failure | None = None
    cost_usd_per_1000_images: Positive | None = None
    skipped_share: Share | None = None
    wall_s: Seconds = 0.0

    @property
    def has_whole_calls(self) -> bool:
        """Whether its latency is that of whole calls, and not predicted from shorter ones."""
        return self.timing is not None and not self.timing.predicted_from

    @property
    def image_owner(self) -> int:
        """The trial whose images its scores are from."""
        reused = self.quality.reused_from if self.quality is not None else None
        return self.number if reused is None else reused


def scored_prompts(outcome: Outcome) -> int:
    """Return how many prompts the scores of an outcome are from."""
    return len(outcome.quality.scores) if outcome.quality is not None else 0

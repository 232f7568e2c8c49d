"""The records that cross a process or a file, and their strict JSON.

Every record is a frozen msgspec struct: unknown keys, missing keys, wrong types and NaN are refused on reading, and
nothing but data can come out of a file. Units stand in the names.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

import msgspec

from tuner.errors import BadInput

Value = bool | int | float | str
Values = dict[str, Value]

FailureKind = Literal[
    "out of memory",
    "timeout",
    "crash",
    "compile error",
    "recompile",
    "invalid picture",
    "no effect",
    "throttled",
    "unavailable",
    "inconclusive trace",
    "disk full",
    "interrupted",
    "error",
]
FindingKind = Literal["graph break", "recompile", "compile work", "device sync", "cuda graph"]
Purpose = Literal["baseline", "recipe", "search", "confirm"]
Status = Literal["measured", "rejected", "failed"]


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class _RecordMeta(msgspec.StructMeta):
    """Makes every record frozen, keyword-only and strict, which msgspec does not inherit from a base."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        options.update(frozen=True, kw_only=True, forbid_unknown_fields=True)
        return super().__new__(mcls, name, bases, namespace, **options)


class Record(msgspec.Struct, metaclass=_RecordMeta):
    """The base of every record."""


class Estimate(Record):
    """A value with its 95 % confidence interval, in the unit that the field's name states."""

    value: float
    low: float
    high: float


class Environment(Record):
    """What a measurement depends on besides the configuration."""

    device: Literal["cuda", "cpu"]
    device_name: str
    compute_capability: str | None
    device_memory_bytes: int | None
    driver: str | None
    cpu_count: int
    cpp_compiler: str | None
    python: str
    platform: str
    libraries: dict[str, str | None]


class Workload(Record):
    """What the user will run. Sizes in pixels; prompts and seeds pair up one to one; `arguments` are further keywords
    of the call. What is absent is as the pipeline itself has it. With a latency target only the calls that take no
    longer count."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    guidance_scale: float | None = None
    max_sequence_length: int | None = None
    arguments: Values = msgspec.field(default_factory=dict)
    latency_target_s: float | None = None


class Model(Record):
    """Which pipeline: a folder or a hub id pinned to a revision, and the class that its index names."""

    source: str
    revision: str | None
    pipeline_class: str
    scorer: str


DENOISERS = ("transformer", "transformer_2", "unet")
"""Names of the components that run once a step."""


class Denoiser(Record):
    """A component that runs once a step, and what its class can do, as its source says."""

    component: str
    class_name: str
    repeated_blocks: tuple[str, ...] = ()
    dispatches_attention: bool = False
    is_cacheable: bool = False
    fuses_qkv: bool = False
    registers_blocks: bool = False
    projects_out: bool = False


class Architecture(Record):
    """What kind of pipeline it is: its components (name to class), the parameters of its call with their defaults
    ("required" without one, null where that is no plain value), and its components' plain settings."""

    pipeline_class: str
    components: dict[str, str]
    denoisers: tuple[Denoiser, ...]
    arguments: dict[str, Value | None]
    settings: dict[str, Values]
    enters_cache_context: bool


class QualityPolicy(Record):
    """By what pictures are judged: `metric` is the axis of the search, the name of a metric or `module:function` of the
    user's own. `given` is what the user points metrics to, by their names: a model's folder, weights, pictures."""

    metric: str = "clip_score"
    given: dict[str, str] = msgspec.field(default_factory=dict)


class Limits(Record):
    """When a study ends: after so many seconds of trials, or so many recorded trials, whichever comes first."""

    budget_s: float
    max_trials: int | None

    def cover(self, other: Limits) -> bool:
        """Whether the others are no wider than these."""
        trials, wanted = (limits.max_trials or sys.maxsize for limits in (self, other))
        return self.budget_s >= other.budget_s and trials >= wanted


class NoiseFloor(Record):
    """How far harmless variations of rounding move the untouched pipeline's own pictures on the axis of the search.

    `axis` is the largest end of a variation's 95 % interval of the difference (None without any), `variations` folders
    of pictures by what was varied, `lacks` says which could not be drawn, and why, and `spent_s` how long it took.
    """

    axis: float | None
    variations: dict[str, str]
    lacks: tuple[str, ...] = ()
    spent_s: float = 0.0


class Reference(Record):
    """The baseline's pictures (a folder with 0000.png, 0001.png, ...) and their scores, prompt by prompt.

    `other_seeds` is a folder with the same prompts' pictures from other seeds, `denoiser` a file with what the
    baseline's denoiser was given and gave back, `floor` what rounding alone moves the axis by.
    """

    images: str
    scores: tuple[float, ...]
    other_seeds: str | None = None
    denoiser: str | None = None
    floor: float | None = None


class SpotCheck(Record):
    """Pictures that another build made with the same image key, which a new build must reproduce up to rounding."""

    images: str


class Point(Record):
    """One call point to measure on a built pipeline: its place in the job, its folder, and what to do about its
    pictures: score them, compare a few with those of `spot_check` and score only if they differ, or neither.

    With `predict` its latency is computed from two or more points of the job before it, where that can be done.
    """

    index: int
    folder: str
    steps: int
    batch: int
    score: bool = True
    spot_check: SpotCheck | None = None
    predict: bool = False


class GatePolicy(Record):
    """What the gate tolerates besides what knobs declare: so many findings of a kind in a step, and any that together
    leave the GPU idle for no longer than this in a step. The default tolerates nothing. Whatever has no known price,
    and compiling inside the steps, is tolerated by kind only."""

    count_per_step: dict[FindingKind, Annotated[float, msgspec.Meta(ge=0)]] = msgspec.field(default_factory=dict)
    max_idle_ms_per_step: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class Allowance(Record):
    """Findings of the gate that are a knob's design: up to so many of a kind in a denoising step."""

    kind: FindingKind
    count_per_step: float
    knob: str


class Job(Record):
    """What a worker process is asked to do: one build and the call points to measure on it, in order.

    `allowed` is what the untouched pipeline does of itself in each step. The baseline is measured whatever it does.
    With `probe` the worker also finds out what bounds a step on this device. `tolerance` is how much worse than the
    baseline's a mean score is still as good.
    """

    model: Model
    environment: Environment
    workload: Workload
    build: Values
    points: tuple[Point, ...]
    allowance_s: float
    reference: Reference | None = None
    trace: bool = True
    gate: GatePolicy = GatePolicy()
    allowed: tuple[Allowance, ...] = ()
    quality: QualityPolicy = QualityPolicy()
    tolerance: float | None = None
    is_baseline: bool = False
    probe: bool = False


class Finding(Record):
    """One thing that the gate found in the traced steps, priced by the time in which the GPU idled because of it."""

    kind: FindingKind
    count: int
    count_per_step: float
    idle_ms_per_step: float | None
    operator: str
    reason: str
    source: str
    allowed_by: str | None = None


class Verdict(Record):
    """What the gate makes of a trace; `skipped` names each check that could not be made here, and why. `warnings` are
    what only the first step does, or autoencoders and text encoders: paid once a picture, it rejects nothing."""

    status: Literal["clean", "rejected", "inconclusive"]
    findings: tuple[Finding, ...] = ()
    skipped: tuple[str, ...] = ()
    warnings: tuple[Finding, ...] = ()

    def undeclared(self) -> list[Finding]:
        """The findings that no knob declared: each of them rejects the configuration."""
        return [finding for finding in self.findings if finding.allowed_by is None]


class Copies(Record):
    """Copies of one direction, like `DtoH (Device -> Pinned)`."""

    direction: str
    count_per_step: float
    bytes_per_step: float
    ms_per_step: float


class TraceSummary(Record):
    """What the traced steps showed, as a rule three of a denoising loop. Shares are of their wall time, 0 to 1.

    The GPU waits for the host while its next work is not launched yet, and for itself ("kernel wait") between two that
    are. Times by class, component, operator and kernel are the GPU's, or the CPU's where the trace has no GPU work.
    """

    steps: int
    events: int
    kernel_events: int
    step_ms: float
    gpu_busy_share: float | None
    launches_per_step: float | None
    top_operators: tuple[tuple[str, float], ...]
    host_wait_share: float | None = None
    kernel_wait_share: float | None = None
    other_wait_share: float | None = None
    classes: dict[str, float] = msgspec.field(default_factory=dict)
    components: dict[str, float] = msgspec.field(default_factory=dict)
    top_kernels: tuple[tuple[str, float], ...] = ()
    copies: tuple[Copies, ...] = ()
    graph_launches_per_step: float | None = None
    graph_kernel_share: float | None = None


class Roofline(Record):
    """What bounds a denoising step on a device (Williams, Waterman and Patterson, "Roofline", CACM 2009).

    `flop_per_step` is the arithmetic of one step for one picture (a multiplication and an addition are two) and
    `weight_bytes` what the denoiser's weights take, both of the untouched pipeline. `flop_per_s` is the rate that a
    large product of each type reaches, `copy_bytes_per_s` what a large copy reads and writes. `lacks` says what could
    not be found out, and why.
    """

    flop_per_step: float | None = None
    weight_bytes: int | None = None
    flop_per_s: dict[str, float] = msgspec.field(default_factory=dict)
    copy_bytes_per_s: float | None = None
    lacks: tuple[str, ...] = ()


class LimitShare(Record):
    """How close a denoising step comes to a rate of the device, 0 to 1; `rate` is a type of number, or "copy"."""

    share: float
    rate: str


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


class GpuUse(Record):
    """The GPU while calls were timed, as NVML said just before and after each call; `lacks` says what it did not say.

    Clocks, power and temperature are medians over the calls that count, `energy_j` is the mean of one such call.
    `events` counts in how many calls, discarded ones included, each reason for another clock was seen, `discarded` the
    calls that do not count, by their reason. The others are the other processes that compute on the GPU; where they
    are not shown, as in a container, there is still what they must hold of its memory, from one GiB on.
    """

    sm_clock_mhz: float | None = None
    sm_clock_max_mhz: float | None = None
    memory_clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    energy_j: Estimate | None = None
    events: dict[str, int] | None = None
    discarded: dict[str, int] = msgspec.field(default_factory=dict)
    other_processes: int | None = None
    other_memory_bytes: int | None = None
    lacks: tuple[str, ...] = ()


class Timing(Record):
    """Latency of one call (of `batch` pictures) by the host's clock, profiler off, and why sampling stopped.

    `device_s` is the same by CUDA's events; it and `gpu` are absent on a CPU. `latency_p95_s`, the 95th percentile, is
    there where the samples of one process are enough to bound it. `within_target` is the share of the samples that met
    the workload's latency target, absent without one. Of a predicted latency `predicted_from` are the step counts that
    were measured, there are no samples, and `drawn_s` is what the calls took that drew its pictures.
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
    drawn_s: Estimate | None = None


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


class Memory(Record):
    """Peak memory. On a GPU what torch had allocated at most during the timed calls, or had reserved where CUDA graphs
    hide their allocations; on a CPU the largest resident set of the process so far, loading and compiling included."""

    peak_bytes: int
    reserved_bytes: int | None


class DenoiserError(Record):
    """How far a candidate's denoiser is from the baseline's when it is given the baseline's own latents: the relative
    error (of the Euclidean norm, 0 is none) of each of its calls in turn."""

    per_call: tuple[float, ...]
    mean: float
    largest: float


class Quality(Record):
    """Scores of a configuration's pictures, prompt by prompt, and the mean paired difference from the baseline's.

    More is always better: of a metric of which less is better these are the negative values. `flags` says what a person
    should look at, `spent_s` is what drawing and judging the pictures took. Only the baseline has a noise floor.
    """

    metric: str
    scores: tuple[float, ...]
    mean: float
    difference: Estimate
    psnr_db: float | None
    ssim: float | None
    reused_from: int | None = None
    flags: tuple[str, ...] = ()
    noise: NoiseFloor | None = None
    denoiser_error: DenoiserError | None = None
    denoiser_error_lacks: str | None = None
    spent_s: float = 0.0


class Judged(Record):
    """What one metric says of a finalist's pictures, in its `unit`. `difference` is from the baseline's value, paired
    picture by picture; of a metric that compares with the baseline's pictures it is absent. `floor` is what harmless
    variations of rounding move the metric by, and the verdict is stated against it."""

    title: str
    unit: str
    higher_is_better: bool
    value: Estimate
    difference: Estimate | None
    floor: float | None
    verdict: Literal["same", "better", "worse", "in doubt", "not judged"]
    ms_per_picture: float


class PanelJob(Record):
    """What the process that judges the finalists is asked: folders of pictures, by trial; the baseline is trial 0.

    `scorer` is the CLIP model's folder or hub id, `strips` the folder that takes the strips of pictures, `variations`
    folders of the baseline's first pictures drawn with other rounding.
    """

    workload: Workload
    device: Literal["cuda", "cpu"]
    scorer: str
    policy: QualityPolicy
    images: dict[int, str]
    strips: str
    variations: tuple[str, ...] = ()


class Panel(Record):
    """All metrics of the finalists, by trial and by the metric's name; `lacks` says which could not be had, and why."""

    finalists: dict[int, dict[str, Judged]]
    lacks: dict[str, str]


class Failure(Record):
    """Why a trial has no result. `stage` is where it happened, `log` the file to read."""

    kind: FailureKind
    stage: str
    message: str
    log: str = "worker.log"


class Outcome(Record):
    """What a trial showed.

    Of a repeated measurement `number` is the trial that was measured again, and `beside` the candidate that it was
    measured again for, baseline and candidate in turns.
    """

    number: int
    purpose: Purpose
    values: Values
    build_key: str
    image_key: str
    status: Status
    recipe: str | None = None
    beside: int | None = None
    build: Build | None = None
    timing: Timing | None = None
    memory: Memory | None = None
    quality: Quality | None = None
    failure: Failure | None = None
    cost_usd_per_1000_images: float | None = None
    wall_s: float = 0.0


class StageStarted(Record, tag="stage"):
    """A worker's message: it enters a stage, of the call point `index` if there is one."""

    stage: str
    index: int | None = None


class BuildDone(Record, tag="build"):
    """A worker's message: the pipeline is built, warm and judged."""

    build: Build


class PointDone(Record, tag="point"):
    """A worker's message: one call point is measured. `quality` is absent when its pictures passed the spot check, or
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

R = TypeVar("R")


def encode(record: Any) -> bytes:
    """One line of JSON."""
    return msgspec.json.encode(record)


def encode_pretty(record: Any) -> bytes:
    """JSON for people, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def decode(data: bytes | str, kind: type[R], where: str) -> R:
    """Read one record, strictly.

    Raises BadInput naming `where` and the field when the JSON is not exactly a `kind`.
    """
    try:
        record = msgspec.json.decode(data, type=kind)
        json.loads(data, object_pairs_hook=_refuse_duplicates, parse_int=str, parse_float=str)
    except (msgspec.DecodeError, UnicodeDecodeError, _DuplicateKey) as error:
        raise BadInput(f"{where}: {error}") from None
    except RecursionError:
        raise BadInput(f"{where}: nested too deeply") from None
    return record


class _DuplicateKey(ValueError):
    """An object of JSON has a key twice; readers differ in which one they take."""


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise _DuplicateKey(f"the key {key!r} stands there twice")
        seen.add(key)


def decode_message(data: bytes) -> Message:
    """Read one line that a worker wrote."""
    message: Message = msgspec.json.decode(data, type=Message)
    return message


def read(path: Path, kind: type[R]) -> R:
    """Read a record from a file; BadInput names the file when it is missing, unreadable or malformed."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    return decode(data, kind, str(path))


def fingerprint(values: Mapping[str, Any]) -> str:
    """A short stable hash of a mapping, independent of its order."""
    return hashlib.sha256(msgspec.json.encode(values, order="sorted")).hexdigest()[:12]

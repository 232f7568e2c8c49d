"""Records that cross between the parent and a worker: the job, and the worker's messages."""

from __future__ import annotations

import msgspec

from tuner.records.codec import Count, Estimate, NonNegative, PositiveCount, Record, Share, Values
from tuner.records.gate import Allowance, GatePolicy
from tuner.records.machine import Environment, Memory
from tuner.records.model import Model, Workload
from tuner.records.outcome import Build, Failure, Timing
from tuner.records.quality import NoiseFloor, Quality, QualityPolicy, Reference, SpotCheck


class Drawn(Record):
    """Images that a point has already: a folder with those of its first prompts."""

    images: str
    prompts: PositiveCount


class Point(Record):
    """One call point to measure on a built pipeline: its index in the job, its folder, and what to do with its images.

    With `score` its images are scored. With `spot_check` a few are compared with those of another build, and scored
    only if they differ. With `predict` its latency is computed from two or more earlier points of the job, if that is
    possible. With `whole` its calls are made with all their steps, however slow they are. Images of slow calls are not
    scored if a call takes longer than `worth_s`. With `drawn` only the images of further prompts are generated, and all
    are scored.
    """

    index: Count
    folder: str
    steps: PositiveCount
    batch: PositiveCount
    score: bool = True
    spot_check: SpotCheck | None = None
    predict: bool = False
    whole: bool = False
    worth_s: NonNegative | None = None
    drawn: Drawn | None = None


class Standing(Record):
    """The place of a worker in a pair that is measured at the same time: their calls are timed in turn.

    With `is_brief`, where the baseline's calls are slow, few calls of each worker are timed.
    """

    pair: str
    is_first: bool
    is_brief: bool = False


class Job(Record):
    """A worker's job: one build and the call points to measure on it, in order.

    `allowed` are the gate's findings that the untouched pipeline causes itself. The baseline is measured whatever the
    gate finds. With `probe` the worker also measures the roofline of this device. `tolerance` is how far a mean score
    may be below the baseline's and still count as good as it. `compile_limit_s` is the first call's deadline.
    With `standing` the worker is timed in turn with the other one of its pair.
    `reference_s` is how long the baseline's images may take, of which as many are generated. Of slow calls, the images
    of other step counts than the first may take `sweep_s`: points that would take longer are left out. All processes of
    the study descend from `study_pid`. With `shares_device` its other workers use the device too, outside this worker's
    turns. With `awaits_reference` the baseline's images are still being generated: the worker asks for the reference
    when it is about to score, and reads its job again.
    """

    model: Model
    environment: Environment
    workload: Workload
    build: Values
    points: tuple[Point, ...]
    allowance_s: NonNegative
    compile_limit_s: NonNegative | None = None
    reference_s: NonNegative | None = None
    sweep_s: NonNegative | None = None
    reference: Reference | None = None
    trace: bool = True
    gate: GatePolicy = GatePolicy()
    allowed: tuple[Allowance, ...] = ()
    quality: QualityPolicy = QualityPolicy()
    tolerance: NonNegative | None = None
    is_baseline: bool = False
    probe: bool = False
    standing: Standing | None = None
    study_pid: int | None = None
    shares_device: bool = False
    awaits_reference: bool = False


class StageStarted(Record, tag="stage"):
    """A worker's message: it enters a stage, of the call point `index` if the stage has one."""

    stage: str
    index: Count | None = None


class ImageSize(Record):
    """The size of an image in pixels, or of a video of several frames."""

    width: PositiveCount
    height: PositiveCount
    frames: PositiveCount = 1


class CallTimed(Record, tag="call"):
    """A worker's message: a call of the untouched pipeline, of so many steps, took so long.

    `fixed_s` of these seconds are the same whatever the steps, 0 if that is not known. `size` is that of an image.
    """

    steps: PositiveCount
    seconds: NonNegative
    fixed_s: NonNegative = 0.0
    size: ImageSize | None = None


class BuildDone(Record, tag="build"):
    """A worker's message: the pipeline is built, warmed up and checked by the gate."""

    build: Build


class PointTimed(Record, tag="timed"):
    """A worker's message: the untouched pipeline is timed, and its images come next. Other builds may begin."""

    index: Count
    timing: Timing
    memory: Memory


class ReferenceWanted(Record, tag="reference_wanted"):
    """A worker's message: it waits until the baseline's images are there, and its job is written again.

    Its own images take `seconds_per_image`.
    """

    seconds_per_image: Estimate


class PointDone(Record, tag="point"):
    """A worker's message: one call point is measured.

    `quality` is None if the images passed the spot check, were not asked for, or are not worth it (`is_dominated`).
    `skipped_share` is the share of their steps in which a cache skipped work, None without a cache.
    """

    index: Count
    timing: Timing
    memory: Memory
    quality: Quality | None
    skipped_share: Share | None = None
    is_dominated: bool = False


class PointLeftOut(Record, tag="left out"):
    """A worker's message: a call point is not measured, since judging its images would take too long."""

    index: Count


class PointFailed(Record, tag="point_failed"):
    """A worker's message: one call point failed, the build still works."""

    index: Count
    failure: Failure


class NoiseFound(Record, tag="noise"):
    """A worker's message: another rounding variation of the untouched pipeline, generated after all points."""

    noise: NoiseFloor


class Alive(Record, tag="alive"):
    """A worker's message: another call of the pipeline returned, the stage goes on."""


class TurnWanted(Record, tag="turn_wanted"):
    """A worker's message: it waits until it has the device to itself, for what must not be disturbed.

    With `in_pair` it waits, the first time, until the other one of its pair does as well.
    """

    in_pair: bool = False


class TurnEnded(Record, tag="turn_ended"):
    """A worker's message: the others on its device may go on."""


class WorkerFailed(Record, tag="failed"):
    """A worker's message: the whole build failed, and the process is about to exit."""

    failure: Failure


Message = (
    StageStarted
    | Alive
    | CallTimed
    | BuildDone
    | PointTimed
    | PointDone
    | PointFailed
    | PointLeftOut
    | NoiseFound
    | TurnWanted
    | TurnEnded
    | ReferenceWanted
    | WorkerFailed
)


def continues(job: Job, build: Build) -> bool:
    """Return whether a worker goes on to measure its points: it stops if the gate did not pass the build."""
    return job.is_baseline or build.verdict is None or build.verdict.status == "clean"


def decode_message(data: bytes) -> Message:
    """Decode one line that a worker wrote."""
    message: Message = msgspec.json.decode(data, type=Message)
    return message


class ForkRequest(Record):
    """A request to the template: fork a worker for the job in this file. `mark` is the worker's."""

    job: str
    mark: str


class Forked(Record, tag="forked"):
    """A template's message: it forked the worker with this mark."""

    mark: str
    pid: PositiveCount


class WorkerEnded(Record, tag="ended"):
    """A template's message: a worker ended with this exit code, negative for a signal."""

    mark: str
    code: int


TemplateMessage = Forked | WorkerEnded

LentStorage = tuple[int | str | bool | None, ...]
"""The values by which torch finds a storage that another process shares; bytes as hexadecimal text."""


class LentTensor(Record):
    """A parameter or buffer of a pipeline that lies in a lent storage. Offset and stride count elements."""

    component: str
    module: str
    name: str
    storage: Count
    dtype: str
    offset: Count
    shape: tuple[Count, ...]
    stride: tuple[Count, ...]


class LentWeights(Record):
    """The storages that the holder of a pipeline's weights lends, and where each tensor lies in them."""

    storages: tuple[LentStorage, ...]
    tensors: tuple[LentTensor, ...]

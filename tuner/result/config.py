"""The records of best_config.json, and reading it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import msgspec

from tuner.errors import BadInput
from tuner.knobs import KNOBS, baseline
from tuner.records.codec import Estimate, Record, Values, read
from tuner.records.machine import Environment, LimitShare, Roofline
from tuner.records.model import Model, Workload
from tuner.records.outcome import Components, Outcome, PredictionCheck
from tuner.records.quality import MetricResult
from tuner.result.economics import Economics, Measurement
from tuner.result.prices import Price

REQUIRED = ("compile.scope", "precision.dtype", "steps", "batch")
"""Knobs that every version had."""

SCHEMA_FILE = Path(__file__).parent / "best_config.schema.json"


class MeasuredPoint(Record):
    """One configuration and what was measured of it; `changed` is what differs from the untouched pipeline.

    `first_call_s` is that of the build, whose first call may have had other steps; `compile_s` is what that call took
    longer than a warm one like it, and the same for all points of the build. `discarded_samples` are the calls that
    did not count, by why; `unavailable_reasons` is what the GPU's driver did not tell; `predicted_from` the
    step counts that a latency without samples was predicted from. What was not measured is null.
    """

    trial: int
    values: Values
    changed: Values
    batch: int
    latency_s: Estimate
    latency_samples: int
    images_per_s: float
    cost_usd_per_1000_images: float
    peak_memory_bytes: int
    first_call_s: float | None
    quality: float
    quality_difference: Estimate
    psnr_db: float | None
    ssim: float | None
    confirmed: bool
    compile_s: float | None = None
    latency_p95_s: float | None = None
    peak_reserved_bytes: int | None = None
    joules_per_image: float | None = None
    within_latency_target: float | None = None
    predicted_from: tuple[int, ...] | None = None
    components: Components | None = None
    panel: dict[str, MetricResult] | None = None
    quality_flags: tuple[str, ...] = ()
    limit: LimitShare | None = None
    economics: Economics | None = None
    discarded_samples: dict[str, int] | None = None
    other_processes: int | None = None
    other_memory_bytes: int | None = None
    unavailable_reasons: tuple[str, ...] = ()


class TimingNoise(Record):
    """How far the baseline's fresh processes differ: the coefficient of variation of what each measured, a share."""

    processes: int
    coefficient_of_variation: float


class TrialCounts(Record):
    """How the trials of the study ended."""

    measured: int
    rejected: int
    failed: int
    refused: int


class BestConfig(Record):
    """What `best_config.json` holds: the chosen configuration, and all that it was compared with, where and on what.

    Quality is a mean in the unit of `quality_metric`, the objective of the search, turned so that more is better; its
    floor is what harmless variations of rounding move the baseline's by.
    `quality_unavailable_reasons` says which metrics could not be had, and why. `predictions` are the
    predicted latencies that were measured later, `roofline` is what bounds a step.
    """

    created_at: str
    tuner_version: str
    model: Model
    environment: Environment
    workload: Workload
    price: Price
    quality_metric: str
    quality_tolerance: float
    baseline: MeasuredPoint
    chosen: MeasuredPoint
    speed_up: Estimate
    speed_up_confirmed: bool
    front: tuple[MeasuredPoint, ...]
    trials: TrialCounts
    timing_noise: TimingNoise | None = None
    predictions: tuple[PredictionCheck, ...] = ()
    roofline: Roofline | None = None
    quality_floor: float | None = None
    quality_unavailable_reasons: dict[str, str] = msgspec.field(default_factory=dict)
    quality_time_share: float | None = None
    format: Literal["diffusion-tuner/1"] = "diffusion-tuner/1"


def read_config(config: str | os.PathLike[str], trial: int | None = None) -> BestConfig:
    """The file, checked against the catalogue of knobs as well as against its own types. With `trial` that point of the
    front, or the baseline, stands in the place of the chosen one."""
    best = read(Path(config), BestConfig)
    if trial is not None:
        points = {point.trial: point for point in (best.baseline, *best.front, best.chosen)}
        if trial not in points:
            known = ", ".join(map(str, sorted(points)))
            raise BadInput(f"{config}: trial {trial}: neither the baseline nor on the front, which are {known}")
        best = msgspec.structs.replace(best, chosen=points[trial])
    for field in ("values", "changed"):
        for name, value in getattr(best.chosen, field).items():
            if name not in KNOBS:
                raise BadInput(f"{config}: chosen.{field}.{name}: unknown knob")
            invalid_reason = KNOBS[name].invalid_reason(value)
            if invalid_reason:
                raise BadInput(f"{config}: chosen.{field}.{name}: {value} {invalid_reason}")
    values = _complete(best, config)
    for name, value in best.chosen.changed.items():
        if values.get(name) != value:
            raise BadInput(f"{config}: chosen.changed.{name}: {value} is not what chosen.values says")
    if best.chosen.batch != values["batch"]:
        raise BadInput(f"{config}: chosen.batch: {best.chosen.batch} is not what chosen.values says")
    return msgspec.structs.replace(best, chosen=msgspec.structs.replace(best.chosen, values=values))


def _complete(best: BestConfig, config: str | os.PathLike[str]) -> Values:
    """The chosen values, a knob that an older version did not have yet at the untouched pipeline's value."""
    given, untouched, values = best.chosen.values, baseline(best.environment), Values()
    for name, knob in KNOBS.items():
        if not knob.is_active(values):
            if name in given:
                raise BadInput(f"{config}: chosen.values.{name}: it means nothing beside the others")
            continue
        if name not in given and (name in REQUIRED or name not in untouched):
            raise BadInput(f"{config}: chosen.values: {name} is missing")
        values[name] = given.get(name, untouched.get(name, False))
    return values


def measured_point(outcome: Outcome, changed: Values, confirmed: bool) -> MeasuredPoint:
    """The row of an outcome that was measured and scored; `confirmed` if also again, in turns with the baseline."""
    assert outcome.timing and outcome.memory and outcome.quality and outcome.cost_usd_per_1000_images is not None
    batch = outcome.values["batch"]
    assert isinstance(batch, int)
    timing, gpu = outcome.timing, outcome.timing.gpu
    energy_j = gpu.energy_j if gpu else None
    return MeasuredPoint(
        trial=outcome.number,
        values=outcome.values,
        changed=changed,
        batch=batch,
        latency_s=outcome.timing.latency_s,
        latency_samples=outcome.timing.samples,
        images_per_s=outcome.timing.images_per_s,
        cost_usd_per_1000_images=outcome.cost_usd_per_1000_images,
        peak_memory_bytes=outcome.memory.peak_bytes,
        first_call_s=outcome.build.first_call_s if outcome.build else None,
        quality=outcome.quality.mean,
        quality_difference=outcome.quality.difference,
        quality_flags=outcome.quality.flags,
        psnr_db=outcome.quality.psnr_db,
        ssim=outcome.quality.ssim,
        confirmed=confirmed,
        compile_s=outcome.build.compile_s if outcome.build else None,
        latency_p95_s=outcome.timing.latency_p95_s,
        peak_reserved_bytes=outcome.memory.reserved_bytes,
        joules_per_image=energy_j.value / batch if energy_j else None,
        within_latency_target=timing.within_target,
        predicted_from=timing.predicted_from,
        components=timing.components,
        discarded_samples=gpu.discarded if gpu else None,
        other_processes=gpu.other_processes if gpu else None,
        other_memory_bytes=gpu.other_memory_bytes if gpu else None,
        unavailable_reasons=gpu.unavailable_reasons if gpu else (),
    )


def measurement(point: MeasuredPoint) -> Measurement:
    """What economics needs of a point."""
    return Measurement(
        images_per_s=point.images_per_s,
        latency_s=point.latency_s.value,
        latency_samples=point.latency_samples,
        latency_p95_s=point.latency_p95_s,
        compile_s=point.compile_s,
        joules_per_image=point.joules_per_image,
        peak_reserved_bytes=point.peak_reserved_bytes,
        within_target=point.within_latency_target,
    )


def count_trials(outcomes: Sequence[Outcome], refused: int) -> TrialCounts:
    by_status = {status: sum(o.status == status for o in outcomes) for status in ("measured", "rejected", "failed")}
    return TrialCounts(**by_status, refused=refused)


def utc_now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def package_version() -> str:
    return metadata.version("diffusion-tuner")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of best_config.json; the copy in the package is for readers that have no Python."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(BestConfig)))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **plain}

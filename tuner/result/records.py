"""The records of best_config.json."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from tuner.knobs.parallel import device_count
from tuner.records.codec import (
    Bytes,
    Count,
    Estimate,
    NonNegative,
    Positive,
    PositiveCount,
    Rate,
    Record,
    Score,
    Seconds,
    Share,
    Values,
)
from tuner.records.machine import Environment, LimitShare, Roofline
from tuner.records.model import Model, Workload
from tuner.records.outcome import Components, PredictionCheck, require_latency
from tuner.records.quality import Decibels, MetricResult, Similarity
from tuner.result.economics import Economics, Measurement
from tuner.result.prices import Price

FORMAT: Literal["diffusion-tuner/2"] = "diffusion-tuner/2"
"""What marks a best_config.json of this version."""


class MeasuredPoint(Record):
    """One configuration and its measurements. `changed` are the values that differ from the untouched pipeline.

    `latency_s` is the median over the medians of so many `processes`, with the widest of their intervals; it was
    predicted if there are none. `disturbed_processes` were slowed by something else and do not count. A gain that was
    measured in pairs with the baseline is `confirmed`, or `doubtful` if they did not decide it. `speed_up` is the
    throughput over the baseline's, from these pairs, else from the latencies.
    `first_call_s` is the first call of the build, which may have had other steps. `compile_s` is how much longer that
    call took than a warm one like it, 0 if nothing is compiled, and is the same for all points of the build.
    `discarded_samples` counts the calls that did not count, by reason. `unavailable_reasons` is what the GPU's driver
    did not report. `predicted_from` are the step counts that a latency without samples was predicted from. What was not
    measured is null.
    """

    trial: Count
    values: Values
    changed: Values
    batch: PositiveCount
    latency_s: Estimate
    latency_samples: Count
    images_per_s: Rate
    cost_usd_per_1000_images: Positive
    peak_memory_bytes: Bytes
    first_call_s: Seconds | None
    quality: Score
    quality_difference: Estimate
    psnr_db: Decibels | None
    ssim: Similarity | None
    confirmed: bool
    doubtful: bool = False
    speed_up: Estimate | None = None
    processes: Count | None = None
    disturbed_processes: Count = 0
    compile_s: Seconds | None = None
    latency_p95_s: Seconds | None = None
    peak_reserved_bytes: Bytes | None = None
    joules_per_image: NonNegative | None = None
    within_latency_target: Share | None = None
    predicted_from: tuple[PositiveCount, ...] | None = None
    components: Components | None = None
    panel: dict[str, MetricResult] | None = None
    quality_flags: tuple[str, ...] = ()
    limit: LimitShare | None = None
    economics: Economics | None = None
    discarded_samples: dict[str, Count] | None = None
    other_processes: Count | None = None
    other_memory_bytes: Bytes | None = None
    unavailable_reasons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_latency(latency_s=self.latency_s)

    @property
    def devices(self) -> int:
        """The number of devices that compute an image together."""
        return device_count(self.values)

    def measurement(self) -> Measurement:
        """Return the measurements that the economics need."""
        return Measurement(
            images_per_s=self.images_per_s,
            latency_s=self.latency_s.value,
            latency_samples=self.latency_samples,
            latency_p95_s=self.latency_p95_s,
            compile_s=self.compile_s,
            joules_per_image=self.joules_per_image,
            peak_reserved_bytes=self.peak_reserved_bytes,
            within_target=self.within_latency_target,
            devices=self.devices,
        )


class TimingNoise(Record):
    """How far the baseline's fresh processes differ: the coefficient of variation of their latencies, as a share."""

    processes: PositiveCount
    coefficient_of_variation: NonNegative


class TrialCounts(Record):
    """How the trials of the study ended."""

    measured: Count
    rejected: Count
    failed: Count
    refused: Count


class BestConfig(Record):
    """The contents of `best_config.json`: the chosen configuration, what it was compared with, and where.

    `front` has the configurations that none other beats in cost and quality, and the doubtful ones.
    Quality is a mean in the unit of `quality_metric`, the objective. Its sign makes higher better.
    `quality_floor` is how far harmless rounding variations move the baseline's. `quality_unavailable_reasons` says
    which metrics could not be computed, and why. `predictions` are the predicted latencies that were measured later.
    `roofline` is what bounds a step.
    """

    created_at: str
    tuner_version: str
    model: Model
    environment: Environment
    workload: Workload
    price: Price
    quality_metric: str
    quality_tolerance: NonNegative
    baseline: MeasuredPoint
    chosen: MeasuredPoint
    speed_up: Estimate
    speed_up_confirmed: bool
    front: tuple[MeasuredPoint, ...]
    trials: TrialCounts
    timing_noise: TimingNoise | None = None
    predictions: tuple[PredictionCheck, ...] = ()
    roofline: Roofline | None = None
    quality_floor: NonNegative | None = None
    quality_unavailable_reasons: dict[str, str] = msgspec.field(default_factory=dict)
    quality_time_share: Share | None = None
    format: Literal["diffusion-tuner/2"] = FORMAT

    def __post_init__(self) -> None:
        try:
            datetime.fromisoformat(self.created_at)
        except ValueError:
            raise ValueError(f"created_at: {self.created_at[:40]!r} is no time as ISO 8601 writes it") from None

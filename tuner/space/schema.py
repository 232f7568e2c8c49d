"""The records of a space file and a prompt file."""

from __future__ import annotations

from typing import Annotated

import msgspec

from tuner.records.codec import NonNegative, Number, PositiveCount, Record, Value, Values
from tuner.records.gate import FindingKind
from tuner.records.model import Pixels, Prompts, Seed, TargetSeconds, require_finite
from tuner.space.candidates import Recipe

Listed = Value | list[Value]


class WorkloadFields(Record):
    """The workload of a space file. A field that is None keeps the pipeline's default.

    `prompts` is a list, or the name of a file in the space file's folder, which may bring its own seeds.
    """

    prompts: str | Prompts | None = None
    seeds: tuple[Seed, ...] | None = None
    height: Pixels | None = None
    width: Pixels | None = None
    num_frames: PositiveCount | None = None
    guidance_scale: Number | None = None
    max_sequence_length: PositiveCount | None = None
    negative_prompt: str | None = None
    arguments: Values | None = None
    latency_target_s: TargetSeconds | None = None

    def __post_init__(self) -> None:
        require_finite(guidance_scale=self.guidance_scale, latency_target_s=self.latency_target_s)


class QualityFields(Record):
    """How far the mean score may be below the baseline's and still count as good, in points of the metric.

    One number is for whichever metric is the objective. Several metrics have their numbers by name.
    """

    tolerance: NonNegative | dict[str, NonNegative] | None = None

    def __post_init__(self) -> None:
        by_metric = self.tolerance if isinstance(self.tolerance, dict) else {"": self.tolerance}
        for tolerance in by_metric.values():
            require_finite(tolerance=tolerance)

    def tolerance_of(self, metric: str) -> float | None:
        """Return the tolerance for a metric, or None if none is written."""
        return self.tolerance.get(metric) if isinstance(self.tolerance, dict) else self.tolerance


class GateFields(Record):
    """What the gate tolerates, as in GatePolicy."""

    count_per_step: dict[FindingKind, NonNegative] | None = None
    max_idle_ms_per_step: NonNegative | None = None


class SpaceFile(Record):
    """The contents of a space file. A knob has a list of values, one value (which pins it), or either per device."""

    extends: str | None = None
    pipelines: tuple[str, ...] = ()
    workload: WorkloadFields = WorkloadFields()
    quality: QualityFields = QualityFields()
    gate: GateFields = GateFields()
    baseline: Values = msgspec.field(default_factory=dict)
    knobs: dict[str, Listed | dict[str, Listed]] = msgspec.field(default_factory=dict)
    recipes: tuple[Recipe, ...] = ()


class PromptFile(Record):
    """Prompts with a seed each, and the topic of each. Scores of different versions of a set do not compare."""

    prompts: Prompts
    seeds: tuple[Seed, ...] | None = None
    version: Annotated[int, msgspec.Meta(ge=0)] | None = None
    topics: tuple[str, ...] | None = None

"""A space file as it is written."""

from __future__ import annotations

from typing import Annotated

import msgspec

from tuner.records.codec import Record, Value, Values
from tuner.records.gate import FindingKind
from tuner.space.candidates import Recipe

Listed = Value | list[Value]


class WorkloadFields(Record):
    """The workload as a space file gives it; `prompts` is a list, or the name of a file in the space file's folder,
    which may bring seeds along. What is absent is as the pipeline itself has it."""

    prompts: str | tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    guidance_scale: float | None = None
    max_sequence_length: int | None = None
    arguments: Values | None = None
    latency_target_s: float | None = None


class QualityFields(Record):
    """How much worse than the baseline's the mean score may be (in points of the metric) and still be as good."""

    tolerance: float | None = None


class GateFields(Record):
    """What the gate tolerates, see GatePolicy."""

    count_per_step: dict[FindingKind, Annotated[float, msgspec.Meta(ge=0)]] | None = None
    max_idle_ms_per_step: Annotated[float, msgspec.Meta(ge=0)] | None = None


class SpaceFile(Record):
    """A space file, as written. A knob has a list of values, one value (which pins it), or either for each device."""

    extends: str | None = None
    pipelines: tuple[str, ...] = ()
    workload: WorkloadFields = WorkloadFields()
    quality: QualityFields = QualityFields()
    gate: GateFields = GateFields()
    baseline: Values = msgspec.field(default_factory=dict)
    knobs: dict[str, Listed | dict[str, Listed]] = msgspec.field(default_factory=dict)
    recipes: tuple[Recipe, ...] = ()


class PromptFile(Record):
    """Prompts with a seed each, and what each is about. Scores of different versions of a set do not compare."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...] | None = None
    version: int | None = None
    topics: tuple[str, ...] | None = None

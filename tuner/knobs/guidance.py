"""Classifier-free guidance for a part of the steps only: the rest run the denoiser once instead of twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tuner.knobs.base import Knob
from tuner.knobs.code import NOTHING, Code
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture


class GuidanceInterval(Knob):
    """The share of the denoising after which guidance is off, by an argument of the pipeline's call; 1 is never."""

    choices = (1.0, 0.8, 0.6, 0.4)
    may_change_image = True
    argument: ClassVar[str]

    def invalid_reason(self, value: Value) -> str | None:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1:
            return None
        return "must be a share above 0 and up to 1"

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value == 1 or self.argument in architecture.arguments:
            return None
        return f"{architecture.pipeline_class} takes no {self.argument}"

    def call_arguments(self, values: Mapping[str, Value]) -> dict[str, Any]:
        share = values[self.name]
        return {} if share == 1 else {self.argument: share}

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        return f"guidance ends at {values[self.name]} of the denoising"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return NOTHING


class GuidanceStop(GuidanceInterval):
    """The share of the noise removed after which guidance is off (Z-Image's cfg_truncation); 1 is never."""

    name = "guidance.stop"
    argument = "cfg_truncation"
    uneven_steps = True
    changes_trajectory = True
    changes_noise = False
    other_arithmetic = True
    mixes_batch = False


class GuidanceTruncation(GuidanceInterval):
    """The share of the steps after which guidance is off (Lumina 2's cfg_trunc_ratio); 1 is never."""

    name = "guidance.truncation"
    argument = "cfg_trunc_ratio"
    uneven_steps = True
    changes_trajectory = True
    changes_noise = False
    other_arithmetic = True
    mixes_batch = False

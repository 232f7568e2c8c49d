"""The knobs of a call: how many denoising steps, how many pictures at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.knobs.base import Knob, not_positive_integer
from tuner.record import Environment, Value


class Steps(Knob):
    """Denoising steps."""

    name = "steps"
    acts = "call"
    image = True

    def baseline(self, environment: Environment) -> Value:
        return 28

    def wrong(self, value: Value) -> str | None:
        return not_positive_integer(value)

    def call_arguments(self, values: Mapping[str, Value]) -> dict[str, Any]:
        return {"num_inference_steps": values[self.name]}


class Batch(Knob):
    """Prompts in one call."""

    name = "batch"
    acts = "call"

    def baseline(self, environment: Environment) -> Value:
        return 1

    def wrong(self, value: Value) -> str | None:
        return not_positive_integer(value)

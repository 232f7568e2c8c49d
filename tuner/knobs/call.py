"""The knobs of a call: how many denoising steps, how many pictures at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.knobs.base import Knob, not_positive_integer
from tuner.record import Value


class Steps(Knob):
    """Denoising steps."""

    name = "steps"
    choices = (28, 20, 14, 10, 6)
    acts = "call"
    image = True

    def wrong(self, value: Value) -> str | None:
        return not_positive_integer(value)

    def call_arguments(self, values: Mapping[str, Value]) -> dict[str, Any]:
        return {"num_inference_steps": values[self.name]}


class Batch(Knob):
    """Prompts in one call."""

    name = "batch"
    choices = (1, 2, 4, 8, 16, 32)
    acts = "call"

    def wrong(self, value: Value) -> str | None:
        return not_positive_integer(value)

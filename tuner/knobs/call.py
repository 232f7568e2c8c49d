"""The batch size of a call."""

from __future__ import annotations

from tuner.knobs.base import Knob, invalid_count_reason
from tuner.records.codec import Value


class Batch(Knob):
    """The number of prompts in one call: more are cheaper per image, but take longer and need more memory."""

    name = "batch"
    choices = (1, 2, 4, 8, 16, 32)
    acts = "call"

    def invalid_reason(self, value: Value) -> str | None:
        return invalid_count_reason(value)

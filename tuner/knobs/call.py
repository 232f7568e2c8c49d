"""The knob of a call that changes no image: how many at once."""

from __future__ import annotations

from tuner.knobs.base import Knob, invalid_count_reason
from tuner.records.codec import Value


class Batch(Knob):
    """Prompts in one call: more are cheaper an image, wait longer and take more memory."""

    name = "batch"
    choices = (1, 2, 4, 8, 16, 32)
    acts = "call"

    def invalid_reason(self, value: Value) -> str | None:
        return invalid_count_reason(value)

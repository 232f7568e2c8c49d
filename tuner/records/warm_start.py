"""Records of what another study taught, from which the model of a study starts."""

from __future__ import annotations

from typing import Literal

from tuner.records.codec import Count, NonNegative, Number, Record, Values

FILE = "warm_start.json"
"""Where a study folder keeps its warm start."""

Part = Literal["step", "fixed", "first_call", "loss"]
"""What an effect is on: a step, the rest of a call, the first call, or the quality."""


class Effect(Record):
    """What one setting did in another study, or two of them beyond what each did.

    `mean` is a log ratio of seconds for a step and for the rest of a call, seconds for a first call, and points of the
    metric for a loss. `error` is its standard error.
    """

    part: Part
    settings: Values
    mean: Number
    error: NonNegative


class WarmStart(Record):
    """What `trials` measured trials of another study taught, and the candidates of this study that were on its front.

    `study` is its folder.
    """

    study: str
    device_name: str
    is_same_device: bool
    trials: Count
    effects: tuple[Effect, ...]
    front: tuple[Values, ...]

"""One row of the table: what is tried, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from tuner.records.codec import Record, Value, Values, fingerprint
from tuner.records.text import shown

What = Literal["step", "mean step", "step, an image", "VAE decode", "text encoding", "whole call"]

MEAN_STEPS = 12
"""The steps of a call of which a mean step is the mean."""


class Trial(Record):
    """One row of the table, or what a row is compared with: a candidate, and what of it is timed.

    `limit_s` is for building it. `rank` says when it starts, the lowest first. One that is `alone` already warms up
    while all others are stopped. `memory_gb` is a guess at what it takes beside the weights that are lent to all.
    """

    name: str
    values: Values
    what: What
    base: Values | None
    compared_with: str | None
    limit_s: float
    rank: int
    alone: bool
    memory_gb: float


class Result(Record):
    """What came of a trial. Times are seconds; memory of a GPU includes the weights that it still uses."""

    trial: Trial
    seconds: float | None = None
    samples_s: tuple[float, ...] = ()
    load_s: float | None = None
    apply_s: float | None = None
    first_call_s: float | None = None
    peak_bytes: int | None = None
    changes: dict[str, str] = msgspec.field(default_factory=dict)
    failure: str | None = None


def key(values: Values, part: What) -> str:
    """The same for two trials that would measure the same."""
    return f"{fingerprint(values)} {part}"


def said(base: Mapping[str, Value]) -> str:
    """What is different from the untouched pipeline, as the table names it."""
    return " ".join(f"{name}={shown(value)}" for name, value in base.items()) or "untouched"

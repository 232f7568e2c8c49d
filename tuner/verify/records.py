"""The records of a verification."""

from __future__ import annotations

from typing import Literal

import msgspec

from tuner.records.codec import Count, Estimate, Record, Values

Status = Literal["pass", "fail", "unavailable"]


class Check(Record):
    """One question of a verification, its answer, and what it rests on. `unavailable` means that nothing could tell."""

    question: Literal["clean", "as fast", "as good"]
    status: Status
    text: str


class Change(Record):
    """Something of the machine or the model that is not as it was recorded."""

    name: str
    recorded: str
    now: str


class Repair(Record):
    """Another point of the front to use instead. It is `measured` if all its questions were answered now."""

    trial: Count
    changed: Values
    measured: bool
    text: str


class Verification(Record):
    """What was verified of a best_config.json.

    `trial` is the chosen configuration, or another point of the front. `latency_s` is its latency now,
    `recorded_latency_s` that of the file, `speed_up` the throughput over the untouched pipeline's, measured now.
    `tried` are the repairs that did not pass, with the reason.
    """

    file: str
    trial: Count
    changed: Values
    quick: bool
    checks: tuple[Check, ...]
    changes: tuple[Change, ...] = ()
    recorded_latency_s: Estimate | None = None
    latency_s: Estimate | None = None
    speed_up: Estimate | None = None
    repair: Repair | None = None
    tried: dict[Count, str] = msgspec.field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no question was answered with no."""
        return all(check.status != "fail" for check in self.checks)

    @property
    def unknown(self) -> tuple[str, ...]:
        """The questions that nothing could answer."""
        return tuple(check.question for check in self.checks if check.status == "unavailable")

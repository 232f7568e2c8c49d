"""Records of advice: what a knob's value is expected to gain, before it is tried."""

from __future__ import annotations

import msgspec

from tuner.records.codec import NonNegative, Positive, Record, Value, Values

FILE = "advice.json"
"""Where a study folder keeps its advice."""


class Expectation(Record):
    """What one value of a knob is expected to do to the latency per image of a whole call, all else as in the baseline.

    A value that needs other settings is compared with a call that has these, in `beside`. `ratio` is the latency
    without the value over that with it: 1.25 is a quarter faster, below 1 is slower. It lies in [`low`, `high`] with
    95 % confidence. `bound` is the most that it can be on this device, None if that is not known. `reason` is one line
    that a person can check. `also` is what else the value is for, such as less memory.
    """

    knob: str
    value: Value
    ratio: Positive
    low: Positive
    high: Positive
    reason: str
    bound: Positive | None = None
    beside: Values = msgspec.field(default_factory=dict)
    also: str = ""

    def __post_init__(self) -> None:
        if not self.low <= self.ratio <= self.high:
            raise ValueError(f"ratio: {self.ratio} is not between low and high, {self.low} and {self.high}")
        if self.bound is not None and self.high > self.bound * (1 + 1e-9):
            raise ValueError(f"high: {self.high} is above the bound, {self.bound}")


class Advice(Record):
    """What an advisor says of the values of a search space, from the baseline's measurements alone.

    `seconds_by_part` is how the seconds of one call divide. `ruled_out` are the expectations whose bound lies inside
    the timing noise, `noise` as a share, even in the fastest call that is imaginable; none serves another purpose.
    """

    seconds_by_part: dict[str, NonNegative]
    noise: NonNegative
    expectations: tuple[Expectation, ...]
    ruled_out: tuple[Expectation, ...] = ()

    def of(self, knob: str, value: Value) -> Expectation | None:
        """Return what is expected of a setting, None if it was not searched."""
        return next((found for found in self.expectations if (found.knob, found.value) == (knob, value)), None)

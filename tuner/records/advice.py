"""Records of advice: what a knob's value is expected to gain, before it is tried."""

from __future__ import annotations

from tuner.records.codec import Positive, Record, Value


class Expectation(Record):
    """What one value of a knob is expected to do to the latency of a whole call, all else as in the baseline.

    `ratio` is the latency without the value over that with it: 1.25 is a quarter faster, below 1 is slower. It lies in
    [`low`, `high`] with 95 % confidence. `reason` is one line that a person can check.
    """

    knob: str
    value: Value
    ratio: Positive
    low: Positive
    high: Positive
    reason: str

    def __post_init__(self) -> None:
        if not self.low <= self.ratio <= self.high:
            raise ValueError(f"ratio: {self.ratio} is not between low and high, {self.low} and {self.high}")

"""What a value does to the parts of a call: the declaration that every knob has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tuner.advisor.call import Call, Change
from tuner.numbers import format_number
from tuner.records.codec import Value, Values
from tuner.records.machine import Environment, Roofline
from tuner.records.model import Architecture, Workload

MARGIN = 1.1
"""Products may reach this many times the measured rate: the probe's has one size, and clocks move."""


@dataclass(frozen=True)
class Facts:
    """What an effect depends on: the call without the value, the device, and the candidate that has the value."""

    call: Call
    roofline: Roofline
    environment: Environment
    architecture: Architecture
    workload: Workload
    values: Values
    without: Values

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.environment.device == "cuda"


@dataclass(frozen=True)
class Effect:
    """What a value does: the parts that change, why, and what else it is for, such as less memory."""

    why: str
    changes: tuple[Change, ...] = ()
    also: str = ""


EffectOf = Callable[[Value, Facts], Effect]
Factors = tuple[float, float, float]
"""A factor, and the low and the high end of its interval."""


def change(part: str, factor: float, low: float, high: float, least: float | None = None) -> Change:
    """Make a change. Without `least` the part can be no smaller than at the fast end of the interval."""
    low, high = min(low, factor), max(high, factor)
    return Change(part, factor, low, high, min(low, low if least is None else least))


def percent(share: float) -> str:
    """Format a share with two digits."""
    return f"{format_number(share * 100, 2)} %"


def of_each(function: Callable[[float], float], factors: Factors) -> Factors:
    """Apply a function to a factor and its interval."""
    return function(factors[0]), function(factors[1]), function(factors[2])


def nothing(why: str, also: str = "") -> EffectOf:
    """Return the effect of a knob of which nothing is expected, whatever its value."""
    return lambda value, facts: Effect(why, also=also)


def fixed(effects: Mapping[Value, Effect]) -> EffectOf:
    """Return the effects of a knob whose values do the same whatever the pipeline."""

    def effect(value: Value, facts: Facts) -> Effect:
        return effects.get(value, Effect("it was never measured"))

    return effect

"""The catalogue of knobs: an explicit table, in the order in which a candidate is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.knobs.attention import AttentionBackend
from tuner.knobs.base import Knob, NoEffect
from tuner.knobs.cache import CacheKind, CacheThreshold
from tuner.knobs.call import Batch, Steps
from tuner.knobs.compile import CompileMode, CompileScope
from tuner.knobs.fusion import FuseQkv
from tuner.knobs.inductor import CoordinateDescentTuning, EpilogueFusion, Freezing
from tuner.knobs.precision import Dtype
from tuner.knobs.quantization import QuantizationScheme
from tuner.record import Allowance, Environment, Value, Values

__all__ = ["KNOBS", "Knob", "NoEffect", "allowances", "apply_knobs", "baseline", "call_arguments"]

KNOBS: Mapping[str, Knob] = {
    knob.name: knob
    for knob in (
        CompileScope(),
        CompileMode(),
        EpilogueFusion(),
        CoordinateDescentTuning(),
        Freezing(),
        AttentionBackend(),
        Dtype(),
        QuantizationScheme(),
        CacheKind(),
        CacheThreshold(),
        FuseQkv(),
        Steps(),
        Batch(),
    )
}


def baseline(environment: Environment) -> Values:
    """The untouched pipeline: the baseline value of every knob that is active then."""
    values: Values = {}
    for name, knob in KNOBS.items():
        if knob.active(values):
            values[name] = knob.baseline(environment)
    return values


def changed(values: Mapping[str, Value], environment: Environment) -> Values:
    """The values that differ from the untouched pipeline's."""
    return {name: value for name, value in values.items() if value != KNOBS[name].baseline(environment)}


def allowances(values: Mapping[str, Value]) -> tuple[Allowance, ...]:
    """What the gate must let pass because a knob of this candidate declares it."""
    return tuple(allowance for name in values for allowance in KNOBS[name].allowances(values))


def call_arguments(values: Mapping[str, Value]) -> dict[str, Any]:
    """What the knobs of this candidate mean for the arguments of a call."""
    return {key: given for name in values for key, given in KNOBS[name].call_arguments(values).items()}


def apply_knobs(pipe: Any, values: Mapping[str, Value], environment: Environment) -> dict[str, str]:
    """Apply every build knob that differs from the baseline, in the order that works; say what each one changed.

    Raises NoEffect naming the knob when one changed nothing.
    """
    changes = {}
    for name in sorted(changed(values, environment), key=lambda name: KNOBS[name].order):
        knob = KNOBS[name]
        if knob.acts == "call":
            continue
        try:
            changes[name] = knob.apply(pipe, values)
        except NoEffect as error:
            raise NoEffect(f"{name}={values[name]}: {error}") from None
    return changes

"""The catalogue of knobs: an explicit table, in the order in which a candidate is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.knobs.attention import AttentionBackend, FlashImplementation
from tuner.knobs.backends import CompileBackend, CudnnBenchmark, MatmulTf32
from tuner.knobs.base import Knob, NoEffect
from tuner.knobs.cache import CacheInterval, CacheKind, CacheMaxSkipSteps, CacheThreshold
from tuner.knobs.call import Batch
from tuner.knobs.compile import CompileDynamic, CompileMode, CompileScope, CompileTextEncoders, CompileVae
from tuner.knobs.fusion import FuseQkv
from tuner.knobs.graphs import DenoiserGraph, SchedulerStep
from tuner.knobs.guidance import GuidanceStop, GuidanceTruncation
from tuner.knobs.inductor import (
    AggressiveFusion,
    Conv1x1AsMm,
    CoordinateDescentCheckAllDirections,
    CoordinateDescentTuning,
    EmulatePrecisionCasts,
    EpilogueFusion,
    Freezing,
    MaxAutotuneGemmBackends,
    PersistentTmaMatmul,
)
from tuner.knobs.lora import LoraFile, LoraScale
from tuner.knobs.memory import GroupOffload, LayerwiseCasting
from tuner.knobs.precision import Dtype
from tuner.knobs.quantization import GgufFile, QuantizationScheme
from tuner.knobs.schedule import BeginIndex, SchedulerKind, Steps
from tuner.knobs.text import SequenceLength
from tuner.knobs.vae import ChannelsLast, Slicing, Tiling, TinyVae
from tuner.records.codec import Value, Values
from tuner.records.gate import Allowance
from tuner.records.machine import Environment

__all__ = ["KNOBS", "Knob", "NoEffect", "allowances", "apply_knobs", "baseline", "call_arguments"]

KNOBS: Mapping[str, Knob] = {
    knob.name: knob
    for knob in (
        CompileScope(),
        CompileBackend(),
        CompileMode(),
        CompileDynamic(),
        CompileTextEncoders(),
        CompileVae(),
        SchedulerStep(),
        DenoiserGraph(),
        EpilogueFusion(),
        PersistentTmaMatmul(),
        MaxAutotuneGemmBackends(),
        CoordinateDescentTuning(),
        CoordinateDescentCheckAllDirections(),
        AggressiveFusion(),
        EmulatePrecisionCasts(),
        Conv1x1AsMm(),
        Freezing(),
        CudnnBenchmark(),
        AttentionBackend(),
        FlashImplementation(),
        Dtype(),
        MatmulTf32(),
        QuantizationScheme(),
        GgufFile(),
        CacheKind(),
        CacheThreshold(),
        CacheInterval(),
        CacheMaxSkipSteps(),
        FuseQkv(),
        TinyVae(),
        ChannelsLast(),
        Tiling(),
        Slicing(),
        LoraFile(),
        LoraScale(),
        LayerwiseCasting(),
        GroupOffload(),
        SequenceLength(),
        GuidanceStop(),
        GuidanceTruncation(),
        SchedulerKind(),
        BeginIndex(),
        Steps(),
        Batch(),
    )
}


def baseline(environment: Environment) -> Values:
    """The untouched pipeline: the baseline value of every knob that is active then."""
    values: Values = {}
    for name, knob in KNOBS.items():
        if knob.is_active(values):
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

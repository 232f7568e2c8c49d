"""The table of all knobs, in the order in which a candidate is chosen, and functions over a whole candidate."""

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
from tuner.knobs.gguf import GgufFile
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
from tuner.knobs.layout import DenoiserChannelsLast, VaeChannelsLast
from tuner.knobs.lora import LoraFile, LoraScale
from tuner.knobs.memory import GroupOffload, LayerwiseCasting
from tuner.knobs.modulation import ModulationOnce
from tuner.knobs.parallel import ParallelDegree, ParallelKind
from tuner.knobs.precision import Dtype
from tuner.knobs.quantization import QuantizationScheme
from tuner.knobs.schedule import BeginIndex, SchedulerKind, Steps
from tuner.knobs.single_blocks import FuseInput, SplitOutput
from tuner.knobs.text import SequenceLength
from tuner.knobs.vae import Slicing, Tiling, TinyVae
from tuner.records.codec import Value, Values
from tuner.records.gate import Allowance
from tuner.records.machine import Environment
from tuner.records.text import format_value

__all__ = [
    "KNOBS", "Knob", "NoEffect", "allowances", "apply_knobs", "baseline", "call_arguments", "changed", "changes_noise",
    "mixes_batch", "other_arithmetic", "require_effects", "trajectory_change", "uneven_steps", "watch",
]  # fmt: skip

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
        FuseInput(),
        SplitOutput(),
        ModulationOnce(),
        DenoiserChannelsLast(),
        TinyVae(),
        VaeChannelsLast(),
        Tiling(),
        Slicing(),
        LoraFile(),
        LoraScale(),
        ParallelKind(),
        ParallelDegree(),
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
    """Return the baseline's value of every knob that is active in it."""
    values: Values = {}
    for name, knob in KNOBS.items():
        if knob.is_active(values):
            values[name] = knob.baseline(environment)
    return values


def changed(values: Mapping[str, Value], environment: Environment) -> Values:
    """Return the values that differ from the baseline's."""
    return {name: value for name, value in values.items() if value != KNOBS[name].baseline(environment)}


def allowances(values: Mapping[str, Value]) -> tuple[Allowance, ...]:
    """Return the device syncs and graph breaks that the knobs of a candidate declare."""
    return tuple(allowance for name in values for allowance in KNOBS[name].allowances(values))


def call_arguments(values: Mapping[str, Value]) -> dict[str, Any]:
    """Return the arguments of the pipeline's call that the knobs of a candidate set."""
    return {key: argument for name in values for key, argument in KNOBS[name].call_arguments(values).items()}


def apply_knobs(
    pipe: Any, values: Mapping[str, Value], environment: Environment, *, is_fresh: bool = True
) -> dict[str, str]:
    """Apply every build knob that differs from the baseline, in the order that works, and describe each change.

    Raises NoEffect naming the knob when one changed nothing. A pipeline that is not fresh may have a value already.
    """
    changes = {}
    for name in sorted(changed(values, environment), key=lambda name: KNOBS[name].order):
        knob = KNOBS[name]
        if knob.acts == "call":
            continue
        try:
            changes[name] = _apply(pipe, knob, values, is_fresh)
        except NoEffect as error:
            raise NoEffect(f"{name}={format_value(values[name])}: {error}", name) from None
    return changes


def _apply(pipe: Any, knob: Knob, values: Mapping[str, Value], is_fresh: bool) -> str:
    if not knob.is_set(pipe, values):
        return knob.apply(pipe, values)
    if is_fresh:
        raise NoEffect("the pipeline has it already")
    return "already so"


def watch(pipe: Any, values: Mapping[str, Value], environment: Environment) -> None:
    """Begin to watch anew which of the knobs of a candidate act in calls of the pipeline."""
    for name in changed(values, environment):
        KNOBS[name].watch(pipe)


def require_effects(
    pipe: Any, values: Mapping[str, Value], environment: Environment, *, is_same_image: bool = False
) -> None:
    """Raise NoEffect naming a knob that had no effect in the calls since `watch`.

    `is_same_image` says that these generated the untouched pipeline's images: then no work was left out in any step.
    """
    for name in changed(values, environment):
        reason = KNOBS[name].idle_reason(pipe, values)
        if reason is None and is_same_image and KNOBS[name].uneven_steps:
            reason = "its images are those of the untouched pipeline"
        if reason:
            raise NoEffect(f"{name}={format_value(values[name])}: {reason}", name)


def require_skipped_steps(pipe: Any, values: Mapping[str, Value]) -> None:
    """Raise NoEffect if a candidate has a cache that skipped nothing in the calls since `watch`."""
    reason = KNOBS["cache.kind"].idle_reason(pipe, values)
    if reason:
        raise NoEffect(f"cache.kind={values['cache.kind']}: {reason}", "cache.kind")


# ---- effects of a whole candidate -----------------------------------------------------------------------------------


def uneven_steps(values: Mapping[str, Value]) -> bool:
    """Return whether the steps of a candidate's call cost different amounts, so that others cannot be predicted."""
    return any(KNOBS[name].uneven_steps and value != KNOBS[name].choices[0] for name, value in values.items())


def mixes_batch(values: Mapping[str, Value]) -> bool:
    """Return whether a candidate's image depends on the other images of its batch."""
    return any(KNOBS[name].mixes_batch and value != KNOBS[name].choices[0] for name, value in values.items())


def other_arithmetic(values: Mapping[str, Value], baseline: Mapping[str, Value]) -> bool:
    """Return whether a candidate's denoising step computes something else than the baseline's, which is counted."""
    return any(KNOBS[name].computes_otherwise(values[name]) for name in _differing(values, baseline))


def trajectory_change(values: Mapping[str, Value], baseline: Mapping[str, Value]) -> str | None:
    """Return the name of a knob after which the latents no longer follow the baseline's trajectory, or None."""
    return next((name for name in _differing(values, baseline) if KNOBS[name].changes_trajectory), None)


def changes_noise(values: Mapping[str, Value], baseline: Mapping[str, Value]) -> bool:
    """Return whether a seed means another initial noise for a candidate than for the baseline. May import torch."""
    names = [name for name in _differing(values, baseline) if name in baseline]
    return any(KNOBS[name].generates_other_noise(values[name], baseline[name]) for name in names)


def _differing(values: Mapping[str, Value], baseline: Mapping[str, Value]) -> list[str]:
    return [name for name, value in values.items() if value != baseline.get(name)]

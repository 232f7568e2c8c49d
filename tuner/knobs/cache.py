"""Caching between denoising steps: what hardly changed is not computed again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.knobs.base import Knob
from tuner.knobs.caches import broadcast, dbcache, deepcache, hooks, teacache
from tuner.knobs.caches.method import CacheMethod
from tuner.records.codec import Value
from tuner.records.gate import Allowance
from tuner.records.machine import Environment
from tuner.records.model import Architecture

THRESHOLD, INTERVAL, MAX_SKIP_STEPS = "cache.threshold", "cache.interval", "cache.max_skip_steps"

OUTSIDE = {"full": "it decides between the blocks, which breaks a whole graph; regional compile keeps it outside"}
INSIDE = {"regional": "its hooks sit inside the blocks and break their graphs", **OUTSIDE}

METHODS: Mapping[str, CacheMethod] = {
    # One number a call of the denoiser, of which guidance makes two a step; so too TeaCache.
    # In a whole graph it is left for the gate to reject.
    "first-block": CacheMethod(hooks.first_block, hooks.without_registered_blocks, (THRESHOLD,), 2, {}),
    "mag": CacheMethod(hooks.mag, hooks.without_ratios, (THRESHOLD, MAX_SKIP_STEPS), 0, OUTSIDE),
    "taylorseer": CacheMethod(hooks.taylorseer, hooks.without_projection, (INTERVAL,), 0, OUTSIDE),
    "pab": CacheMethod(broadcast.enable, broadcast.unavailable_reason, (INTERVAL,), 0, OUTSIDE),
    # It makes its two frequency masks on the CPU and copies them.
    "faster": CacheMethod(hooks.faster, hooks.without_format, (INTERVAL,), 2, INSIDE),
    "teacache": CacheMethod(teacache.enable, teacache.unavailable_reason, (THRESHOLD,), 2, OUTSIDE),
    "dbcache": CacheMethod(dbcache.enable, dbcache.unavailable_reason, (THRESHOLD, MAX_SKIP_STEPS), 4, OUTSIDE),
    "deepcache": CacheMethod(deepcache.enable, deepcache.unavailable_reason, (INTERVAL,), 0, OUTSIDE),
}


class CacheKind(Knob):
    """What a step reuses of the steps before it instead of computing it, each kind by a rule of its own.

    By a number read from the GPU: `first-block` (ParaAttention's, when the first block's residual moved little),
    `teacache` (when its modulated input did), `dbcache` (cache-dit's, when several blocks' residual did). By a
    schedule: `mag` (published magnitudes), `taylorseer` (extrapolates the output), `pab` and `faster` (reuse
    attention), `deepcache` (a UNet's inner layers).
    """

    name = "cache.kind"
    choices = ("none", *METHODS)
    may_change_image = True
    order = 50
    uneven_steps = True
    changes_trajectory = False
    changes_noise = False
    other_arithmetic = True
    mixes_batch = True

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        return None if value == "none" else METHODS[str(value)].unavailable_reason(environment, architecture)

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        kind = METHODS.get(str(values.get(self.name)))
        if kind is None:
            return None
        if values.get("lora.file", "none") != "none":
            return "the few steps of a distilled LoRA differ too much to skip any"
        if any(values.get(name, 1) != 1 for name in ("guidance.stop", "guidance.truncation")):
            return "guidance that ends changes the calls that the cache compares from step to step"
        return kind.refused_scopes.get(str(values["compile.scope"]))

    def allowances(self, values: Mapping[str, Value]) -> tuple[Allowance, ...]:
        kind = METHODS.get(str(values[self.name]))
        if kind is None or not kind.syncs_per_step:
            return ()
        return (Allowance(kind="device sync", count_per_step=kind.syncs_per_step, knob=self.name),)

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        return METHODS[str(values[self.name])].enable(pipe, values)


class CacheParameter(Knob):
    """A number that some kinds of cache take. The cache reads it when it is put on."""

    may_change_image = True
    order = 51

    def is_active(self, values: Mapping[str, Value]) -> bool:
        kind = METHODS.get(str(values["cache.kind"]))
        return kind is not None and self.name in kind.parameters

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        return f"{self.name.partition('.')[2]} {values[self.name]}"


class CacheThreshold(CacheParameter):
    """How much change is skipped: in the kind's own measure, 0.05 to 0.2 (TeaCache 0.25 to 0.8)."""

    name = THRESHOLD
    choices = (0.05, 0.08, 0.1, 0.12, 0.2, 0.25, 0.4, 0.6)
    uneven_steps = False
    changes_trajectory = False
    changes_noise = False
    other_arithmetic = False
    mixes_batch = False

    def invalid_reason(self, value: Value) -> str | None:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 2:
            return None
        return "must be a number between 0 and 2"


class CacheInterval(CacheParameter):
    """Of how many steps one is computed in full."""

    name = INTERVAL
    choices = (2, 3, 5)
    uneven_steps = False
    changes_trajectory = False
    changes_noise = False
    other_arithmetic = False
    mixes_batch = False

    def invalid_reason(self, value: Value) -> str | None:
        return _not_whole(value, 2)


class CacheMaxSkipSteps(CacheParameter):
    """How many steps in a row may be skipped."""

    name = MAX_SKIP_STEPS
    choices = (3, 2, 5)
    uneven_steps = False
    changes_trajectory = False
    changes_noise = False
    other_arithmetic = False
    mixes_batch = False

    def invalid_reason(self, value: Value) -> str | None:
        return _not_whole(value, 1)


def _not_whole(value: Value, least: int) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= 100:
        return None
    return f"must be a whole number from {least} to 100"

"""Caching between denoising steps: computation whose result hardly changes is skipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.knobs.base import Knob
from tuner.knobs.caches import broadcast, dbcache, deepcache, hooks, teacache
from tuner.knobs.caches.clock import Clock
from tuner.knobs.caches.code import CODES
from tuner.knobs.caches.method import CacheMethod
from tuner.knobs.code import NOTHING, Code
from tuner.records.codec import Value
from tuner.records.gate import Allowance
from tuner.records.machine import Environment
from tuner.records.model import Architecture

THRESHOLD, INTERVAL, MAX_SKIP_STEPS = "cache.threshold", "cache.interval", "cache.max_skip_steps"

DECIDES_BETWEEN_BLOCKS = {
    "full": "it decides between the blocks, which breaks a whole graph; regional compile keeps it outside"
}
HOOKS_INSIDE_BLOCKS = {"regional": "its hooks sit inside the blocks and break their graphs", **DECIDES_BETWEEN_BLOCKS}

METHODS: Mapping[str, CacheMethod] = {
    # One number per call of the denoiser, of which guidance makes two a step. TeaCache does the same.
    # In a whole graph it is left for the gate to reject.
    "first-block": CacheMethod(hooks.first_block, hooks.without_registered_blocks, (THRESHOLD,), 2, {}),
    "mag": CacheMethod(hooks.mag, hooks.without_ratios, (THRESHOLD, MAX_SKIP_STEPS), 0, DECIDES_BETWEEN_BLOCKS),
    "taylorseer": CacheMethod(hooks.taylorseer, hooks.without_projection, (INTERVAL,), 0, DECIDES_BETWEEN_BLOCKS),
    "pab": CacheMethod(broadcast.enable, broadcast.unavailable_reason, (INTERVAL,), 0, DECIDES_BETWEEN_BLOCKS),
    # It makes its two frequency masks on the CPU and copies them.
    "faster": CacheMethod(hooks.faster, hooks.without_format, (INTERVAL,), 2, HOOKS_INSIDE_BLOCKS),
    "teacache": CacheMethod(teacache.enable, teacache.unavailable_reason, (THRESHOLD,), 2, DECIDES_BETWEEN_BLOCKS),
    "dbcache": CacheMethod(
        dbcache.enable, dbcache.unavailable_reason, (THRESHOLD, MAX_SKIP_STEPS), 4, DECIDES_BETWEEN_BLOCKS
    ),
    "deepcache": CacheMethod(deepcache.enable, deepcache.unavailable_reason, (INTERVAL,), 0, DECIDES_BETWEEN_BLOCKS),
}


class CacheKind(Knob):
    """The method by which a step reuses results of earlier steps instead of computing them.

    Some decide by a number read from the GPU: `first-block` (ParaAttention's, when the first block's residual moved
    little), `teacache` (when its modulated input did), `dbcache` (cache-dit's, when several blocks' residual did).
    Others follow a schedule: `mag` (published magnitudes), `taylorseer` (extrapolates the output), `pab` and `faster`
    (reuse attention), `deepcache` (a UNet's inner layers).
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
        method = METHODS.get(str(values.get(self.name)))
        if method is None:
            return None
        if values.get("lora.file", "none") != "none":
            return "the few steps of a distilled LoRA differ too much to skip any"
        if any(values.get(name, 1) != 1 for name in ("guidance.stop", "guidance.truncation")):
            return "guidance that ends changes the calls that the cache compares from step to step"
        return method.refused_scopes.get(str(values["compile.scope"]))

    def allowances(self, values: Mapping[str, Value]) -> tuple[Allowance, ...]:
        method = METHODS.get(str(values[self.name]))
        if method is None or not method.syncs_per_step:
            return ()
        return (Allowance(kind="device sync", count_per_step=method.syncs_per_step, knob=self.name),)

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        return METHODS[str(values[self.name])].enable(pipe, values)

    def code(self, values: Mapping[str, Value]) -> Code | None:
        write = CODES.get(str(values[self.name]))
        return write(values) if write else None

    def watch(self, pipe: Any) -> None:
        clock = Clock.of(pipe)
        if clock is not None:
            clock.count_afresh()

    def idle_reason(self, pipe: Any, values: Mapping[str, Value]) -> str | None:
        if skipped_share(pipe, values) != 0:
            return None
        count = Clock.of(pipe).steps_taken  # type: ignore[union-attr]
        return f"it skipped nothing in {count} {'step' if count == 1 else 'steps'}, as if it were not set"


def skipped_share(pipe: Any, values: Mapping[str, Value]) -> float | None:
    """Return the share of the steps since `watch` in which a cache skipped work, or None if that is not known."""
    clock = Clock.of(pipe)
    if clock is None or not clock.steps_taken or values.get("compile.scope") == "full":
        return None
    return clock.steps_skipped / clock.steps_taken


class CacheParameter(Knob):
    """A parameter of some caches, which read it when they are enabled."""

    may_change_image = True
    order = 51

    def is_active(self, values: Mapping[str, Value]) -> bool:
        method = METHODS.get(str(values["cache.kind"]))
        return method is not None and self.name in method.parameters

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        return f"{self.name.partition('.')[2]} {values[self.name]}"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return NOTHING


class CacheThreshold(CacheParameter):
    """The change below which a step is skipped, in the cache's own measure: 0.05 to 0.2 (TeaCache 0.25 to 0.8)."""

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
    """The interval in steps at which one is computed in full."""

    name = INTERVAL
    choices = (2, 3, 5)
    uneven_steps = False
    changes_trajectory = False
    changes_noise = False
    other_arithmetic = False
    mixes_batch = False

    def invalid_reason(self, value: Value) -> str | None:
        return _invalid_integer_reason(value, 2)


class CacheMaxSkipSteps(CacheParameter):
    """The number of consecutive steps that may be skipped."""

    name = MAX_SKIP_STEPS
    choices = (3, 2, 5)
    uneven_steps = False
    changes_trajectory = False
    changes_noise = False
    other_arithmetic = False
    mixes_batch = False

    def invalid_reason(self, value: Value) -> str | None:
        return _invalid_integer_reason(value, 1)


def _invalid_integer_reason(value: Value, minimum: int) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= 100:
        return None
    return f"must be a whole number from {minimum} to 100"

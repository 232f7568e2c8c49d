"""Find figures of an outcome that contradict one another: its file may come from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from statistics import fmean
from typing import Any, TypeVar

import msgspec

from tuner.numbers import format_number
from tuner.records.outcome import MAX_LATENCY_S, Components, Outcome, Timing
from tuner.records.quality import Quality

ROUNDING = 1e-4
"""Figures that follow from one another may differ by this share: a person may have rounded them."""

CLOCKS = 0.01
"""The parts of a call, each timed by itself, may differ from the whole by this share."""

RESULTS = ("timing", "memory", "quality", "cost_usd_per_1000_images", "skipped_share")
NEEDED = {
    "measured": ("timing", "memory", "cost_usd_per_1000_images"), "rejected": ("build",), "failed": ("failure",),
}  # fmt: skip
ABSENT = {"measured": ("failure",), "rejected": ("failure", *RESULTS), "failed": RESULTS}

T = TypeVar("T")
Rule = Callable[[T], Iterator[str]]
"""Yields the field that does not go with others, and why."""


def differ(one: float, other: float, scale: float = 0.0) -> bool:
    """Return whether two figures differ by more than rounding, of them or of figures as large as `scale`."""
    return abs(one - other) > ROUNDING * max(abs(one), abs(other), scale)


def alike(one: Any, other: Any) -> bool:
    """Return whether two values of a record are equal but for rounding."""
    if isinstance(one, msgspec.Struct) and isinstance(other, msgspec.Struct):
        return alike(msgspec.to_builtins(one), msgspec.to_builtins(other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return not differ(one, other)
    return bool(one == other)


def first_broken(rules: Iterable[Rule[T]], record: T) -> str | None:
    """Return what the first rule says that a record breaks, or None."""
    return next(chain.from_iterable(rule(record) for rule in rules), None)


def contradiction(outcome: Outcome) -> str | None:
    """Return which field of an outcome does not go with the others, and why, or None."""
    return first_broken(RULES, outcome)


# ---- rules ----------------------------------------------------------------------------------------------------------


def _parts(outcome: Outcome) -> Iterator[str]:
    for name in NEEDED[outcome.status]:
        if getattr(outcome, name) is None:
            yield f"{name}: missing, although status is {outcome.status}"
    for name in ABSENT[outcome.status]:
        if getattr(outcome, name) is not None:
            yield f"{name}: present, although status is {outcome.status}"


def _purpose(outcome: Outcome) -> Iterator[str]:
    if (outcome.repetition is None) != (outcome.purpose != "confirm"):
        yield f"purpose: {outcome.purpose}, although repetition is {outcome.repetition}"
    if outcome.pair is not None and (outcome.repetition is None or outcome.number not in (0, outcome.pair.candidate)):
        yield f"pair: of trial {outcome.pair.candidate}, although this is trial {outcome.number}"


def _verdict(outcome: Outcome) -> Iterator[str]:
    verdict = outcome.build.verdict if outcome.build else None
    status = verdict.status if verdict else None
    if outcome.status == "rejected" and status != "rejected":
        yield f"build.verdict: {'missing' if status is None else status}, although status is rejected"
    if outcome.status == "measured" and outcome.purpose != "baseline" and status not in (None, "clean"):
        yield f"build.verdict.status: {status}, although status is measured"
    if verdict is not None and (status == "rejected") != bool(verdict.undeclared()):
        count = len(verdict.undeclared())
        yield f"build.verdict.findings: {count} that nothing allows, although the verdict's status is {status}"


def _build(outcome: Outcome) -> Iterator[str]:
    build = outcome.build
    if build is not None and (build.compile_s or 0) > build.first_call_s * (1 + ROUNDING):
        yield f"build.compile_s: {build.compile_s}, although the first call took {build.first_call_s} s"
    trace = build.trace if build is not None else None
    if trace is not None and trace.kernel_events > trace.events:
        yield f"build.trace.kernel_events: {trace.kernel_events}, although there are {trace.events} events"
    if trace is not None:
        waits = (trace.host_wait_share, trace.kernel_wait_share, trace.other_wait_share)
        total = (trace.gpu_busy_share or 0) + sum(share or 0 for share in waits)
        if total > 1 + CLOCKS:
            yield f"build.trace.gpu_busy_share: with the waits {format_number(total)} times the traced time"


def _latency(outcome: Outcome) -> Iterator[str]:
    timing = outcome.timing
    if timing is None:
        return
    latency_s, batch = timing.latency_s.value, outcome.values.get("batch")
    if isinstance(batch, int) and differ(timing.images_per_s * latency_s, batch):
        yield f"timing.images_per_s: {timing.images_per_s}, although a call of {batch} images takes {latency_s} s"
    if timing.latency_p95_s is not None and timing.latency_p95_s < latency_s * (1 - ROUNDING):
        yield f"timing.latency_p95_s: {timing.latency_p95_s}, less than the median, {latency_s}"
    yield from _samples(timing)
    if timing.components is not None:
        yield from _components(timing.components)


def _samples(timing: Timing) -> Iterator[str]:
    counts = timing.predicted_from
    if (timing.stopped == "predicted") != (counts is not None):
        yield f"timing.predicted_from: contradicts timing.stopped, which is {timing.stopped}"
    if counts is not None and len(set(counts)) < (1 if timing.components else 2):
        yield "timing.predicted_from: a prediction needs two step counts, or one and the components of its call"
    if (timing.samples == 0) != (counts is not None):
        yield f"timing.samples: {timing.samples}, although the latency was {'' if counts else 'not '}predicted"
    if timing.samples * timing.latency_s.value > MAX_LATENCY_S:
        yield f"timing.samples: {timing.samples} calls would have taken years"


def _components(parts: Components) -> Iterator[str]:
    known = (parts.text_encoders_s, parts.denoiser_s, parts.vae_s, parts.rest_s)
    total_s = sum(seconds or 0 for seconds in known)
    if abs(total_s - parts.total_s) > CLOCKS * max(total_s, parts.total_s):
        yield f"timing.components.total_s: {parts.total_s}, although its parts add up to {format_number(total_s, 6)}"


def _memory(outcome: Outcome) -> Iterator[str]:
    memory = outcome.memory
    if memory is not None and memory.reserved_bytes is not None and memory.reserved_bytes < memory.peak_bytes:
        yield f"memory.reserved_bytes: {memory.reserved_bytes}, less than the peak, {memory.peak_bytes}"


def _quality(outcome: Outcome) -> Iterator[str]:
    quality, is_baseline = outcome.quality, outcome.number == 0
    if quality is None:
        return
    if quality.reused_from == outcome.number:
        yield f"quality.reused_from: {quality.reused_from}, the trial itself"
    if is_baseline and scores_differ(quality.difference.value, 0.0, quality):
        yield f"quality.difference: {quality.difference.value}, although this is the baseline"
    if is_baseline and scores_differ(quality.mean, fmean(quality.scores), quality):
        yield f"quality.mean: {quality.mean}, although the mean of its scores is {fmean(quality.scores)}"
    error = quality.denoiser_error
    if error is not None and (differ(error.mean, fmean(error.per_call)) or differ(error.largest, max(error.per_call))):
        yield "quality.denoiser_error: its mean or largest is not that of per_call"


def scores_differ(one: float, other: float, quality: Quality) -> bool:
    """Return whether two means differ by more than the rounding of the scores that they are of."""
    return differ(one, other, max(map(abs, quality.scores)))


RULES: tuple[Rule[Outcome], ...] = (_parts, _purpose, _verdict, _build, _latency, _memory, _quality)

"""Which candidates cost nothing: those that are invalid, and those that the baseline's measurements rule out."""

from __future__ import annotations

from tuner.knobs import KNOBS
from tuner.knobs.cache import THRESHOLD, CacheKind
from tuner.knobs.compile import compiles
from tuner.records.codec import Values
from tuner.records.text import shown
from tuner.search.history import History

MIN_RATE_SHARE = 0.25
"""A dtype whose large matrix products reach less than this share of the baseline's rate is too slow to gain."""


RAISES_SKIPS = (THRESHOLD, "steps")
"""Knobs with whose value the share of the steps that a cache skips rises: with more steps each differs less."""


def refusal_reason(history: History, values: Values) -> str | None:
    """Return why a candidate is not worth a process, or None."""
    reasons = (ruled_out_reason, no_gain_reason, slow_compile_reason, idle_cache_reason)
    return history.space.conflict_reason(values) or next(
        filter(None, (each(history, values) for each in reasons)), None
    )


def ruled_out_reason(history: History, values: Values) -> str | None:
    """Return why the measured roofline rules a candidate out, or None.

    A CPU without instructions for bfloat16, for example, computes its products a hundred times slower than float32's.
    Where quantization or TF32 decides the arithmetic, the dtype's own rate tells nothing.
    """
    baseline = history.outcomes.get(0)
    roofline = baseline.build.roofline if baseline is not None and baseline.build is not None else None
    if baseline is None or roofline is None or has_other_products(values):
        return None
    dtype, untouched = str(values["precision.dtype"]), str(baseline.values["precision.dtype"])
    rate, baseline_rate = roofline.flop_per_s.get(dtype), roofline.flop_per_s.get(untouched)
    if rate is None or baseline_rate is None or rate >= MIN_RATE_SHARE * baseline_rate:
        return None
    return (
        f"precision.dtype={dtype}: large products reach {rate / 1e9:,.0f} GFLOP/s on this device, "
        f"{baseline_rate / 1e9:,.0f} in {untouched}"
    )


def no_gain_reason(history: History, values: Values) -> str | None:
    """Return why a value of a candidate cannot gain more than the timing noise, by the advisor's bounds, or None."""
    for found in history.advice.ruled_out if history.advice else ():
        value = values.get(found.knob)
        if value == found.value and type(value) is type(found.value):
            return f"{found.knob}={shown(value)} cannot gain more than the timing noise: {found.reason}"
    return None


def slow_compile_reason(history: History, values: Values) -> str | None:
    """Return why a candidate would compile for too long, since one did with the same settings or fewer, or None.

    One that was given less time than a build has now says nothing.
    """
    if not compiles(values):
        return None
    for trial in history.outcomes.values():
        failure = trial.failure
        if failure is None or (failure.kind, failure.stage) != ("timeout", "compile"):
            continue
        if failure.limit_s is not None and failure.limit_s < history.compile_limit_s:
            continue
        settings = compile_settings(history.space.changed(trial.values))
        if all(values.get(name) == value for name, value in settings.items()):
            names = " ".join(f"{name}={shown(value)}" for name, value in settings.items())
            return f"{names}: trial {trial.number} was {failure.message}"
    return None


def idle_cache_reason(history: History, values: Values) -> str | None:
    """Return why a candidate's cache would skip nothing, or None: it did not with a threshold and steps as high."""
    kind = values.get(CacheKind.name)
    for trial in history.outcomes.values():
        failure = trial.failure
        if failure is None or failure.knob != CacheKind.name or trial.values.get(CacheKind.name) != kind:
            continue
        if skips_no_more(values, trial.values):
            least = {name: trial.values[name] for name in RAISES_SKIPS if name in trial.values}
            settings = " ".join(f"{name}={shown(value)}" for name, value in least.items())
            return f"it skips no more than trial {trial.number} with {settings}: {failure.message}"
    return None


def skips_no_more(values: Values, other: Values) -> bool:
    """Return whether a cache skips no more than another: the same one, on the same trajectory of latents."""
    alike = [name for name, knob in KNOBS.items() if name.startswith("cache.") or knob.changes_trajectory]
    return all(
        float(values.get(name, 0)) <= float(other.get(name, 0))
        if name in RAISES_SKIPS
        else values.get(name) == other.get(name)
        for name in alike
    )


def compile_settings(values: Values) -> Values:
    """Return the values that decide what is compiled and how: quantized products are other code."""
    deciding = ("compile.", "inductor.", "quantization.scheme")
    return {name: value for name, value in values.items() if name.startswith(deciding)}


def has_other_products(values: Values) -> bool:
    """Return whether products are computed in another type than the candidate's dtype."""
    return values.get("quantization.scheme", "none") != "none" or values.get("matmul.tf32", False) is True

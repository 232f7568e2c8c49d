"""What was measured of a configuration and what was not, in lines of text for the head of an exported file."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from tuner.numbers import format_difference, format_fixed, format_gain, format_latency, format_score
from tuner.records.codec import Estimate, Value
from tuner.records.text import format_value, visible
from tuner.result.records import BestConfig, MeasuredPoint

WIDTH = 110
"""Characters of a line of comment, without its mark."""


def facts(best: BestConfig) -> Iterator[str]:
    """Yield lines that say what the configuration is, what was measured of it, where, and what was not."""
    point, model = best.chosen, best.model
    revision = f" at {model.revision}" if model.revision else ""
    yield f"{model.pipeline_class} of {model.source}{revision}"
    yield f"tuned by diffusion-tuner {best.tuner_version}, {best.created_at}: trial {point.trial} of its study"
    yield "Settings:"
    yield from (f"  {setting(name, value)}" for name, value in point.changed.items())
    yield f"Measured on {machine(best)}:"
    yield from (f"  {line}" for line in measured(best))
    yield "Not measured:"
    yield from (f"  {line}" for line in not_measured(best))


def setting(name: str, value: Value) -> str:
    """Write a knob's value as `--set` takes it."""
    return f"{name}={format_value(value)}"


def machine(best: BestConfig) -> str:
    """Write the machine and the versions of the measurements."""
    there = best.environment
    libraries = [f"{name} {version}" for name, version in there.libraries.items() if version]
    driver = [f"driver {there.driver}"] if there.driver else []
    return ", ".join([there.device_name, *driver, f"Python {there.python}", *libraries])


def measured(best: BestConfig) -> Iterator[str]:
    """Yield the measurements of the chosen point beside the baseline's."""
    point, baseline = best.chosen, best.baseline
    yield f"latency: {latency(point)}; the untouched pipeline: {latency(baseline)}"
    yield f"speed-up: {ratio(best.speed_up)} the untouched pipeline's throughput, {how_known(best)}"
    images = f"{format_fixed(point.peak_memory_bytes / 1e9, 2)} GB at most"
    yield f"memory: {images}; the untouched pipeline {format_fixed(baseline.peak_memory_bytes / 1e9, 2)} GB"
    difference = point.quality_difference
    against = format_difference(difference.value, difference.low, difference.high)
    yield f"quality: {best.quality_metric} {format_score(point.quality)}, {against} against the untouched pipeline's"
    yield from filter(None, [shortfall(best)])


def how_known(best: BestConfig) -> str:
    """Say where the speed-up is from."""
    if best.speed_up_confirmed:
        return "confirmed in pairs of fresh processes"
    if best.chosen.doubtful:
        return "IN DOUBT: pairs of fresh processes did not decide whether there is a gain"
    return "computed from the two latencies"


def shortfall(best: BestConfig) -> str | None:
    """Say that a configuration may lose more quality than the study tolerates, if it may."""
    if best.chosen.quality_difference.low >= -best.quality_tolerance:
        return None
    loss = format_fixed(best.quality_tolerance, 2)
    return (
        f"NOT shown to be as good: its 95 % interval reaches below the {loss} points that the study tolerates to lose"
    )


def latency(point: MeasuredPoint) -> str:
    """Write a point's latency with its interval, and what it is the latency of."""
    estimate, steps = point.latency_s, point.values.get("steps")
    interval = f"{format_latency(estimate.value)} [{format_latency(estimate.low)}, {format_latency(estimate.high)}]"
    return f"{interval} for {point.batch} prompt{'s' if point.batch > 1 else ''} in {steps} steps"


def ratio(estimate: Estimate) -> str:
    """Write a ratio with its interval."""
    return format_gain(estimate.value, estimate.low, estimate.high)


def not_measured(best: BestConfig) -> Iterator[str]:
    """Yield what the figures do not tell."""
    point = best.chosen
    yield "this file: the figures are of the same settings as diffusion-tuner applies them"
    if not best.speed_up_confirmed and not point.doubtful:
        yield "the speed-up in pairs of fresh processes: the two latencies were not measured side by side"
    if point.predicted_from:
        steps = ", ".join(map(str, point.predicted_from))
        yield f"the latency: it was predicted from calls of {steps} steps"
    yield "other machines, versions, prompts, sizes and step counts"


def comments(lines: Iterable[str], mark: str = "#") -> list[str]:
    """Return lines as comments, long ones wrapped. What comes from a file stays a comment, whatever it holds."""
    return [f"{mark} {part}".rstrip() for line in lines for part in _wrapped(line)]


def _wrapped(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip(" ")))
    text = visible(" ".join(line.split()))
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip

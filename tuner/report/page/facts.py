"""What the page says in figures: the headline, the noise, the machine and the workload."""

from __future__ import annotations

from collections.abc import Iterator

from tuner.numbers import (
    format_difference,
    format_exact,
    format_fixed,
    format_latency,
    format_number,
    format_ratio,
)
from tuner.records.text import format_value
from tuner.report.formatting import one_line, pluralize
from tuner.report.study_report import StudyReport
from tuner.result.records import MeasuredPoint

Fact = tuple[str, str, str]
"""A name, a figure, and what stands in small letters below it."""


def headline(report: StudyReport) -> Iterator[Fact]:
    """Yield the largest figures of the choice."""
    best, gain = report.best, report.best.speed_up
    before, after = best.baseline, best.chosen
    if after.trial == before.trial:
        yield "latency", format_latency(before.latency_s.value), _interval_s(report)
        yield "US$ per 1000 images", format_number(before.cost_usd_per_1000_images), "of the untouched pipeline"
        yield report.metric_title, format_number(before.quality, 4), "of the untouched pipeline"
        return
    interval = f"[{format_ratio(gain.low)}, {format_ratio(gain.high)}]"
    how = "in pairs of fresh processes" if best.speed_up_confirmed else "not confirmed"
    yield "throughput", f"{format_ratio(gain.value)}x", f"{interval}, {how}"
    yield _latency(before, after)
    usd = [format_number(point.cost_usd_per_1000_images) for point in (after, before)]
    yield "US$ per 1000 images", usd[0], f"baseline {usd[1]}"
    lost = after.quality_difference
    shift, interval = format_difference(lost.value, lost.low, lost.high).split(" ", 1)
    yield report.metric_title, shift, f"{interval}, tolerated {format_exact(-best.quality_tolerance)}"
    yield "peak memory", _gigabytes(after.peak_memory_bytes), f"baseline {_gigabytes(before.peak_memory_bytes)}"


def _latency(before: MeasuredPoint, after: MeasuredPoint) -> Fact:
    """Return the latencies of a call; of calls of different batches the time per image, and who waits how long."""
    if after.batch == before.batch:
        return "latency", format_latency(after.latency_s.value), f"baseline {format_latency(before.latency_s.value)}"
    ours, theirs = (format_latency(point.latency_s.value / point.batch) for point in (after, before))
    call = f"a call of {pluralize(after.batch, 'image')} takes {format_latency(after.latency_s.value)}"
    return "latency per image", ours, f"baseline {theirs}; {call}"


def _interval_s(report: StudyReport) -> str:
    latency = report.best.baseline.latency_s
    return f"[{format_latency(latency.low)}, {format_latency(latency.high)}]"


def _gigabytes(size: float) -> str:
    return f"{format_number(size / 1e9)} GB"


def noise(report: StudyReport) -> Iterator[tuple[str, str]]:
    """Yield how far equal measurements differ."""
    best = report.best
    if best.timing_noise:
        spread, processes = best.timing_noise.coefficient_of_variation, best.timing_noise.processes
        yield "timing noise", f"{spread:.2%}, between {pluralize(processes, 'process', 'processes')} of the baseline"
    if best.quality_floor is not None:
        yield "quality noise floor", f"{format_number(best.quality_floor)} by rounding alone"
    yield "tolerated loss", f"{format_exact(best.quality_tolerance)} of {report.metric_title}"
    held = sum(check.held for check in best.predictions)
    if best.predictions:
        worst = max((check.error for check in best.predictions), key=abs)
        yield "predicted latencies", f"{held} of {len(best.predictions)} held, the worst {worst:+.1%} off"


def machine(report: StudyReport) -> Iterator[tuple[str, str]]:
    """Yield what the measurements depend on."""
    here, best = report.request.environment, report.best
    yield "device", one_line(here.device_name)
    if here.device_memory_bytes:
        yield "device memory", _gigabytes(here.device_memory_bytes)
    optional = {
        "compute capability": here.compute_capability, "driver": here.driver, "C++": here.cpp_compiler,
        "platform": here.platform,
    }  # fmt: skip
    yield from ((name, one_line(value)) for name, value in optional.items() if value)
    yield "CPU cores", str(here.cpu_count)
    yield "price", f"US$ {format_fixed(best.price.usd_per_hour, 2)} an hour ({one_line(best.price.source)})"
    yield "Python", one_line(here.python)
    yield from ((one_line(name), one_line(version)) for name, version in here.libraries.items() if version)
    yield "diffusion-tuner", one_line(best.tuner_version)


def workload(report: StudyReport) -> Iterator[tuple[str, str]]:
    """Yield what the pipeline was asked for."""
    model, space = report.request.model, report.request.space
    asked = space.workload
    yield "model", one_line(model.source)
    yield "pipeline", one_line(model.pipeline_class)
    yield "search space", one_line(space.name)
    optional = {
        "revision": model.revision, "variant": model.variant, "height": asked.height, "width": asked.width,
        "frames": asked.num_frames, "steps of the untouched pipeline": space.baseline["steps"],
        "guidance scale": asked.guidance_scale, "negative prompt": asked.negative_prompt,
        "latency target, s": asked.latency_target_s, **asked.arguments,
    }  # fmt: skip
    yield from ((one_line(name), format_value(value)) for name, value in optional.items() if value is not None)
    yield "prompts", str(len(asked.prompts))

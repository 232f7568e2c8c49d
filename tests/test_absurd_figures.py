"""Figures that no machine measures, in every file of a study: refused in one line with the file and the field."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kinds import kind
from test_export import CPU, example, outcome
from test_space import GOOD, write

from tuner import knobs
from tuner.errors import BadInput
from tuner.records.codec import Estimate, encode_pretty, read
from tuner.records.consistency import contradiction
from tuner.records.gate import Copies, Finding, TraceSummary, Verdict
from tuner.records.machine import GpuUse, Roofline
from tuner.records.model import Model
from tuner.records.outcome import Build, Components, Outcome, WarmUp
from tuner.records.quality import DenoiserError, MetricResult, NoiseFloor, Panel
from tuner.result.config import read_config
from tuner.result.prices import Price
from tuner.result.records import BestConfig, TimingNoise
from tuner.search.request import Request, read_request
from tuner.space import reader

ONE = Estimate(value=1.0, low=0.9, high=1.1)


def full_outcome() -> Outcome:
    """An outcome that has all of its parts."""
    plain = outcome(3, {**knobs.baseline(CPU), "steps": 4}, 1.0)
    assert plain.timing and plain.quality
    finding = Finding(
        kind="device sync",
        count=3,
        count_per_step=1.0,
        idle_ms_per_step=0.1,
        operator="aten::item",
        reason="",
        source="",
    )
    trace = TraceSummary(
        steps=3, events=100, kernel_events=50, step_ms=20.0, gpu_busy_share=0.9, launches_per_step=20.0,
        top_operators=(("aten::mm", 3.0),), host_wait_share=0.1, classes={"matmul": 3.0},
        copies=(Copies(direction="DtoH", count_per_step=1, bytes_per_step=8, ms_per_step=0.1),),
    )  # fmt: skip
    build = Build(
        changes={}, load_s=1.0, apply_s=0.1, first_call_s=2.0, compile_s=1.0, trace=trace,
        verdict=Verdict(status="clean", warnings=(finding,)),
        roofline=Roofline(flop_per_step=1e12, weight_bytes=10**9, flop_per_s={"bfloat16": 1e14}, copy_bytes_per_s=1e12),
    )  # fmt: skip
    gpu = GpuUse(
        sm_clock_mhz=1980, power_w=700, temperature_c=60, energy_j=ONE, events={"power cap": 1}, discarded={},
        other_processes=0, other_memory_bytes=0,
    )  # fmt: skip
    timing = msgspec.structs.replace(
        plain.timing, device_s=ONE, latency_p95_s=1.1, generation_s=ONE, gpu=gpu, within_target=1.0,
        warm_up=WarmUp(calls=2, settled=True, last_call_s=1.0),
        components=Components(total_s=1.0, text_encoders_s=0.1, denoiser_s=0.8, vae_s=0.1, rest_s=0.0),
    )  # fmt: skip
    quality = msgspec.structs.replace(
        plain.quality, noise=NoiseFloor(max_difference=0.1, variations={}, spent_s=1.0),
        denoiser_error=DenoiserError(per_call=(0.1,), mean=0.1, largest=0.1),
    )  # fmt: skip
    return msgspec.structs.replace(plain, build=build, timing=timing, quality=quality, wall_s=10.0)


def full_config() -> BestConfig:
    return msgspec.structs.replace(
        example(), timing_noise=TimingNoise(processes=2, coefficient_of_variation=0.01), quality_floor=0.1,
        quality_time_share=0.2,
    )  # fmt: skip


def panel() -> Panel:
    result = MetricResult(
        title="SSIM",
        unit="",
        higher_is_better=True,
        value=ONE,
        difference=None,
        floor=0.1,
        verdict="same",
        ms_per_image=3.0,
    )
    return Panel(finalists={0: {"ssim": result}, 3: {"ssim": result}}, unavailable_reasons={})


def study(folder: Path) -> Request:
    return Request(
        model=Model(source="/model", revision=None, pipeline_class="FluxPipeline", scorer="demo"), environment=CPU,
        space=reader.load(write(folder, GOOD), kind(), CPU), price=Price(usd_per_hour=1.0, source="--price"),
    )  # fmt: skip


class Raw(str):
    """A number as it stands in JSON."""

    __slots__ = ()


NAN, INFINITY, HUGE = Raw("NaN"), Raw("-Infinity"), Raw("1e999")
SWAPPED = {"value": 1.0, "low": 1.1, "high": 0.9}
OUTSIDE = {"value": 2.0, "low": 0.9, "high": 1.1}

OUTCOMES: list[tuple[str, Any]] = [
    ("build.load_s", -1), ("build.load_s", 1e300), ("build.apply_s", -1e-9), ("build.first_call_s", 1e9),
    ("build.compile_s", -0.5), ("build.load_s", NAN), ("build.load_s", HUGE),
    ("build.trace.steps", -3), ("build.trace.events", 1e3), ("build.trace.kernel_events", 2**60),
    ("build.trace.step_ms", -1), ("build.trace.gpu_busy_share", 1.7), ("build.trace.gpu_busy_share", -0.1),
    ("build.trace.launches_per_step", 1e200), ("build.trace.top_operators.0.1", -3), ("build.trace.host_wait_share", 2),
    ("build.trace.classes.matmul", -1), ("build.trace.copies.0.bytes_per_step", -8),
    ("build.verdict.warnings.0.count", -1), ("build.verdict.warnings.0.idle_ms_per_step", -1e300),
    ("build.verdict.status", "spotless"), ("build.roofline.weight_bytes", 10**18),
    ("build.roofline.flop_per_s.bfloat16", 1e308), ("build.roofline.copy_bytes_per_s", -1),
    ("timing.latency_s", SWAPPED), ("timing.latency_s", OUTSIDE), ("timing.latency_s.value", 0),
    ("timing.latency_s.value", -1), ("timing.latency_s.high", 1e300), ("timing.latency_s.low", -1e300),
    ("timing.latency_s.high", NAN), ("timing.device_s", OUTSIDE), ("timing.device_s.high", 1e12),
    ("timing.generation_s", {"value": -1.0, "low": -2.0, "high": 0.0}), ("timing.latency_p95_s", -1),
    ("timing.samples", -6), ("timing.samples", 6.5), ("timing.images_per_s", 1e300), ("timing.images_per_s", 0),
    ("timing.images_per_s", -2), ("timing.images_per_s", 1e-300), ("timing.images_per_s", INFINITY),
    ("timing.within_target", 1.5), ("timing.predicted_from", [0]),
    ("timing.warm_up.calls", -1), ("timing.warm_up.last_call_s", 1e99),
    ("timing.components.total_s", -1), ("timing.components.vae_s", 1e300), ("timing.gpu.sm_clock_mhz", 1e12),
    ("timing.gpu.power_w", 1e9), ("timing.gpu.power_w", -5), ("timing.gpu.temperature_c", -300),
    ("timing.gpu.temperature_c", 1e6), ("timing.gpu.energy_j", SWAPPED), ("timing.gpu.events", {"power cap": -1}),
    ("timing.gpu.other_memory_bytes", 2**60), ("timing.gpu.other_processes", -1),
    ("memory.peak_bytes", -1), ("memory.peak_bytes", 10**18), ("memory.peak_bytes", 1e9 + 0.5),
    ("memory.reserved_bytes", 2**70), ("quality.scores.0", -1e308), ("quality.scores", [NAN]),
    ("quality.mean", -1e308), ("quality.mean", 1e300), ("quality.difference", SWAPPED),
    ("quality.difference", OUTSIDE), ("quality.difference.low", -1e308), ("quality.ssim", 7), ("quality.psnr_db", 1e9),
    ("quality.reused_from", -1), ("quality.spent_s", -1), ("quality.noise.max_difference", -0.1),
    ("quality.denoiser_error.per_call.0", -1), ("quality.denoiser_error.largest", 1e300),
    ("cost_usd_per_1000_images", -1), ("cost_usd_per_1000_images", 0), ("cost_usd_per_1000_images", 1e300),
    ("wall_s", -1), ("wall_s", 1e300), ("number", -1), ("number", 2**60), ("repetition", -1), ("status", "great"),
    ("values.steps", {"a": 1}),
    ("pair", {"candidate": -1, "index": 0}),
]  # fmt: skip

CONFIGS: list[tuple[str, Any]] = [
    ("chosen.latency_s", SWAPPED), ("chosen.latency_s", OUTSIDE), ("chosen.latency_s.value", 0),
    ("chosen.images_per_s", 1e300), ("baseline.images_per_s", -1), ("front.0.images_per_s", HUGE),
    ("chosen.cost_usd_per_1000_images", 1e300), ("chosen.peak_memory_bytes", 10**18), ("chosen.quality", -1e308),
    ("chosen.quality_difference", SWAPPED), ("chosen.ssim", 3), ("chosen.psnr_db", 1e300), ("chosen.batch", 0),
    ("chosen.first_call_s", -1), ("chosen.compile_s", 1e300), ("chosen.latency_samples", -1), ("chosen.trial", -2),
    ("chosen.joules_per_image", -1),
    ("chosen.within_latency_target", 1.2), ("speed_up", SWAPPED), ("speed_up", OUTSIDE),
    ("speed_up.high", 1e300), ("price.usd_per_hour", 0), ("price.usd_per_hour", 1e300), ("price.usd_per_hour", -2.5),
    ("trials.measured", -1), ("timing_noise.processes", 0), ("timing_noise.coefficient_of_variation", -1),
    ("quality_floor", -1), ("quality_time_share", 1.01), ("quality_tolerance", -1), ("quality_tolerance", NAN),
    ("workload.height", -8), ("workload.seeds", [1]), ("workload.guidance_scale", HUGE),
    ("environment.device_memory_bytes", 10**19), ("environment.cpu_count", 0), ("created_at", "yesterday"),
    ("created_at", ""),
]  # fmt: skip

PANELS: list[tuple[str, Any]] = [
    ("finalists.0.ssim.value", SWAPPED), ("finalists.0.ssim.value", OUTSIDE), ("finalists.0.ssim.value.low", -1e308),
    ("finalists.3.ssim.ms_per_image", -1), ("finalists.3.ssim.ms_per_image", 1e300), ("finalists.0.ssim.floor", -1),
    ("finalists.0.ssim.verdict", "best"), ("finalists.-1", {}), ("finalists.x", {}), ("finalists.0.ssim.value", NAN),
    ("unavailable_reasons", [1]),
]  # fmt: skip

STUDIES: list[tuple[str, Any]] = [
    ("price.usd_per_hour", 1e300), ("price.usd_per_hour", 0), ("price.usd_per_hour", NAN), ("space.tolerance", -1),
    ("space.tolerance", HUGE), ("space.workload.seeds", [-1, 0]), ("space.workload.height", 10**9),
    ("space.gate.max_idle_ms_per_step", -1), ("environment.cpu_count", -4), ("environment.device_memory_bytes", 2**80),
    ("space.knobs.steps", [None]), ("space.baseline.steps", [4]), ("space.workload.latency_target_s", 0),
]  # fmt: skip

FILES: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any], list[tuple[str, Any]]]] = {
    "outcome.json": (lambda _: full_outcome(), lambda file: read(file, Outcome), OUTCOMES),
    "best_config.json": (lambda _: full_config(), read_config, CONFIGS),
    "panel.json": (lambda _: panel(), lambda file: read(file, Panel), PANELS),
    "study.json": (lambda file: study(file.parent), read_request, STUDIES),
}
CASES = [(name, field, value) for name, (_, _, cases) in FILES.items() for field, value in cases]


def changed(record: Any, field: str, to: Any) -> str:
    """A record as JSON with one field set to something."""
    data = json.loads(encode_pretty(record))
    *path, last = (int(step) if step.isdecimal() else step for step in re.split(r"\.(?!\d*e)", field))
    target = data
    for step in path:
        target = target[step if isinstance(target, list) else str(step)]
    target[last if isinstance(target, list) else str(last)] = copy.deepcopy(to)
    text = json.dumps(data, default=str)
    return re.sub(r'"(NaN|-Infinity|1e999)"', r"\1", text)


@pytest.mark.parametrize("name", FILES)
def test_what_a_study_writes_is_read_back(tmp_path: Path, name: str) -> None:
    make, read_file, _ = FILES[name]
    record, file = make(tmp_path / name), tmp_path / name
    file.write_bytes(encode_pretty(record))
    assert read_file(file) == record


@pytest.mark.parametrize(("name", "field", "value"), CASES, ids=[f"{n}: {f}={v}" for n, f, v in CASES])
def test_an_absurd_figure_is_refused_by_file_and_field(tmp_path: Path, name: str, field: str, value: Any) -> None:
    make, read_file, _ = FILES[name]
    file = tmp_path / name
    file.write_text(changed(make(file), field, value))
    with pytest.raises(BadInput) as refusal:
        read_file(file)
    message = str(refusal.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message and len(message) < 400
    if "not JSON" not in message:  # NaN is no JSON: the parser names the byte
        steps = [step for step in field.split(".") if step.isidentifier()]
        assert steps[0] in message and (steps[-1] in message or steps[-2] in message), message


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"timing": None}, "timing"), ({"memory": None}, "memory"), ({"cost_usd_per_1000_images": None}, "cost_usd"),
        ({"status": "failed", "failure": None}, "failure"), ({"stopped": "predicted"}, "timing.predicted_from"),
        ({"predicted_from": (28, 6)}, "timing.predicted_from"),
    ],
)  # fmt: skip
def test_an_outcome_that_contradicts_itself_is_told_which_field(changes: dict[str, Any], field: str) -> None:
    whole = full_outcome()
    assert contradiction(whole) is None
    assert whole.timing
    of_timing = {name: value for name, value in changes.items() if name in ("stopped", "predicted_from")}
    timing = msgspec.structs.replace(whole.timing, **of_timing)
    others = {name: value for name, value in changes.items() if name not in of_timing}
    reason = contradiction(msgspec.structs.replace(whole, **{"timing": timing, **others}))
    assert reason and reason.startswith(field)

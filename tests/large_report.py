"""The report of a study of 300 trials, made from records: nothing is run. Its texts try to break out of the page."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import viewed_study
from msgspec.structs import replace
from PIL import Image

from tuner.records.codec import Estimate
from tuner.records.gate import Finding, TraceSummary, Verdict
from tuner.records.outcome import Build, Components, Failure, Outcome
from tuner.report.points import FrontPoint
from tuner.report.study_report import StudyReport

COUNT = 300
HOSTILE = '</script><img src=x onerror="window.broken=1"> & <b>bold</b> \u202e {{ 7 * 7 }}'
SIDE = 320
SUMMARY = TraceSummary(
    steps=3, events=9000, kernel_events=3000, step_ms=24.5, gpu_busy_share=0.81, launches_per_step=410.0,
    top_operators=(("aten::addmm", 0.4), (HOSTILE, 0.1)), host_wait_share=0.15,
    classes={"GEMM": 0.45, "attention": 0.2, "elementwise and norm": 0.12, HOSTILE: 0.05},
)  # fmt: skip


def make(report: StudyReport, folder: Path) -> StudyReport:
    """Widen the report of a small study, and write images and traces of its baseline and its choice into a folder."""
    numbers = {report.best.baseline.trial, report.best.chosen.trial}
    known = {outcome.number: _traced(outcome) for outcome in report.outcomes if outcome.number in numbers}
    outcomes = tuple(known.get(number) or _outcome(number, known[0]) for number in range(COUNT))
    for number in numbers:
        _write(folder / "trials" / f"{number:04}", number)
    space, best = report.request.space, report.best
    workload = replace(space.workload, prompts=(HOSTILE, *space.workload.prompts[1:]))
    space = replace(space, workload=workload, left_out={f"knob={HOSTILE}": HOSTILE})
    model = replace(report.request.model, source=HOSTILE)
    components = Components(total_s=1.0, text_encoders_s=0.05, denoiser_s=0.8, vae_s=0.1, rest_s=0.05)
    best = replace(
        best,
        baseline=replace(best.baseline, components=components),
        chosen=replace(best.chosen, components=replace(components, total_s=0.7, denoiser_s=0.5)),
    )
    front = tuple(
        _point(outcome, best.baseline.cost_usd_per_1000_images) for outcome in outcomes[20:30] if outcome.timing
    )
    return replace(
        report,
        folder=str(folder),
        request=replace(report.request, space=space, model=model),
        best=best,
        outcomes=outcomes,
        points=(*(point for point in report.points if point.number in numbers), *front),
        refused={HOSTILE: 3},
    )


def _traced(outcome: Outcome) -> Outcome:
    build = outcome.build or Build(changes={}, load_s=1, apply_s=0, first_call_s=1, trace=None, verdict=None)
    return replace(outcome, build_key=f"build {outcome.number}", build=replace(build, trace=SUMMARY, verdict=None))


def _outcome(number: int, baseline: Outcome) -> Outcome:
    """Every tenth is rejected, every eleventh fails, the others are measured."""
    values = {**baseline.values, "steps": 5 + number % 40, "batch": 1 + number % 4}
    given: dict[str, Any] = {"number": number, "purpose": "search", "values": values, "build_key": f"build {number}"}
    if number % 10 == 0:
        finding = Finding(
            kind="graph break", count=3, count_per_step=1, idle_ms_per_step=0.5, operator="", reason=HOSTILE,
            source="model.py:7",
        )  # fmt: skip
        verdict = Verdict(status="rejected", findings=(finding,))
        build = Build(changes={}, load_s=1, apply_s=0, first_call_s=1, trace=None, verdict=verdict)
        return Outcome(image_key="i", status="rejected", build=build, **given)
    if number % 11 == 0:
        return Outcome(
            image_key="i", status="failed", failure=Failure(kind="error", stage="load", message=HOSTILE), **given
        )
    faster = 0.3 + (number * 37 % 100) / 100
    assert baseline.timing and baseline.quality and baseline.cost_usd_per_1000_images
    latency = baseline.timing.latency_s.value * faster
    loss = -2.0 * (1.3 - faster) * (number % 7) / 6
    return replace(
        baseline,
        timing=replace(
            baseline.timing,
            latency_s=Estimate(value=latency, low=0.97 * latency, high=1.03 * latency),
            images_per_s=1 / latency,
        ),
        quality=replace(baseline.quality, difference=Estimate(value=loss, low=loss - 0.4, high=loss + 0.3)),
        cost_usd_per_1000_images=baseline.cost_usd_per_1000_images * faster,
        **given,
    )


def _point(outcome: Outcome, baseline_usd: float) -> FrontPoint:
    timing, quality = outcome.timing, outcome.quality
    usd = outcome.cost_usd_per_1000_images or baseline_usd
    shift = quality.difference if quality else Estimate(value=0, low=0, high=0)
    return FrontPoint(
        number=outcome.number, label=f"steps={outcome.values['steps']}",
        latency_s=timing.latency_s.value if timing else 1,
        images_per_s=timing.images_per_s if timing else 1, cost_usd_per_1000_images=usd, quality=30 + shift.value,
        quality_low=30 + shift.low, quality_high=30 + shift.high, difference=shift.value, speed_up=baseline_usd / usd,
    )  # fmt: skip


def _write(trial: Path, number: int) -> None:
    """Write two images, noise in a part of them so that they are large, and a GPU's trace."""
    noise = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    noise[:, : SIDE // 2] = (40 + number, 90, 160)
    (trial / "images").mkdir(parents=True)
    for index in range(2):
        Image.fromarray(noise).save(trial / "images" / f"{index:04}.png", compress_level=1)
    (trial / "denoise.1.pt.trace.json.gz").write_bytes(_packed(viewed_study.gpu_trace()))


def _packed(trace: bytes) -> bytes:
    return gzip.compress(trace, 1)

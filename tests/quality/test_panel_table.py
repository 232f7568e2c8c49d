"""The panel for people: which column is the chosen one, and what is said of the rest."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest
from rich.console import Console, RenderableType
from rich.style import Style
from rich.text import Text

from tuner.records.codec import Estimate
from tuner.records.model import Model, Workload
from tuner.records.quality import MetricResult
from tuner.report.console import CHOSEN
from tuner.report.panel_table import panel_table
from tuner.result.objective import as_decided
from tuner.result.prices import Price
from tuner.result.records import BestConfig, MeasuredPoint, TrialCounts


def judged(value: float, verdict: Literal["same", "worse"]) -> MetricResult:
    estimate = Estimate(value=value, low=value, high=value)
    return MetricResult(
        title="SSIM", unit="of 1", higher_is_better=True, value=estimate, difference=None, floor=0.1, verdict=verdict,
        ms_per_image=1.0,
    )  # fmt: skip


def point(trial: int, value: float | None) -> MeasuredPoint:
    one = Estimate(value=1.0, low=1.0, high=1.0)
    return MeasuredPoint(
        trial=trial, values={}, changed={}, batch=1, latency_s=one, latency_samples=5, images_per_s=1.0,
        cost_usd_per_1000_images=1.0, peak_memory_bytes=1, first_call_s=None, quality=30.0, quality_difference=one,
        psnr_db=None, ssim=None, confirmed=True,
        panel=None if value is None else {"ssim": judged(value, "same" if value == 1 else "worse")},
    )  # fmt: skip


def best(chosen: MeasuredPoint, *front: MeasuredPoint) -> BestConfig:
    from tuner.hardware.environment import detect

    return BestConfig(
        created_at="2026-11-29T10:00:00+00:00",
        tuner_version="", environment=detect("cpu"), price=Price(usd_per_hour=1.0, source="a test"),
        model=Model(source="x", revision=None, pipeline_class="FluxPipeline", scorer="demo"),
        workload=Workload(prompts=("a",), seeds=(0,), height=32, width=32), quality_metric="ssim",
        quality_tolerance=1.0, baseline=point(0, 1.0), chosen=chosen, speed_up=Estimate(value=1.0, low=1.0, high=1.0),
        speed_up_confirmed=True, front=front, trials=TrialCounts(measured=3, rejected=0, failed=0, refused=0),
        quality_unavailable_reasons={"fid": "no weights"},
    )  # fmt: skip


def rendered(table: RenderableType, width: int = 80) -> list[Text]:
    console = Console(width=width)
    lines = console.render_lines(table, console.options, pad=False)
    return [Text.assemble(*((part.text, part.style or "") for part in line)) for line in lines]


def coloured(lines: list[Text]) -> list[str]:
    chosen = Style.parse(CHOSEN)
    spans = [(line, span) for line in lines for span in line.spans if span.style == chosen]
    return [text for line, span in spans if (text := line.plain[span.start : span.end].strip())]


def test_a_row_a_metric_a_column_a_trial_and_what_is_missing() -> None:
    lines = rendered(panel_table(best(point(5, 0.25), point(5, 0.25), point(7, 0.5)), "SSIM"))
    assert lines[0].plain.split() == ["Quality", "baseline", "trial", "5", "trial", "7"]
    assert lines[1].plain.split() == ["SSIM", "(of", "1)", "=1", "0.25", "0.5"]
    assert "not measured: fid" in "".join(line.plain for line in lines)
    assert coloured(lines) == ["0.25"]


def test_the_metric_that_decides_stands_on_top_and_is_named() -> None:
    panel = {"psnr": msgspec.structs.replace(judged(0.25, "worse"), title="PSNR"), "ssim": judged(0.25, "worse")}
    baseline = msgspec.structs.replace(point(0, 1.0), panel=panel)
    lines = rendered(panel_table(msgspec.structs.replace(best(point(5, 0.25)), baseline=baseline), "SSIM"))
    assert [line.plain.split()[0] for line in lines[1:3]] == ["SSIM", "PSNR"]
    assert "SSIM alone decides what is as good; the others are for information" in lines[3].plain


@pytest.mark.parametrize("chosen", [point(0, 1.0), point(5, None)])
def test_no_other_column_is_coloured_as_the_chosen_one(chosen: MeasuredPoint) -> None:
    lines = rendered(panel_table(best(chosen, point(0, 1.0), point(7, 0.5)), "SSIM"))
    assert lines[0].plain.split() == ["Quality", "baseline", "trial", "7"]
    assert coloured(lines) == []


def test_columns_that_have_no_room_are_left_out_the_chosen_one_last() -> None:
    lines = rendered(panel_table(best(point(5, 0.25), point(7, 0.5), point(8, 0.75)), "SSIM"), width=34)
    assert lines[0].plain.split() == ["Quality", "baseline", "trial", "5"]
    assert coloured(lines) == ["0.25"]


def test_nothing_is_said_when_nothing_was_examined() -> None:
    found = best(point(5, None))
    assert rendered(panel_table(msgspec.structs.replace(found, baseline=point(0, None)), "SSIM")) == []


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_studys_own_metric_has_the_interval_that_decided(higher_is_better: bool) -> None:
    narrow, decided = Estimate(value=-0.3, low=-0.35, high=-0.25), Estimate(value=-0.3, low=-0.6, high=0.05)
    found = msgspec.structs.replace(
        judged(0.5, "worse"), difference=narrow, higher_is_better=higher_is_better
    )  # fmt: skip
    chosen = msgspec.structs.replace(
        point(5, 0.5), quality_difference=decided, panel={"ssim": found, "psnr": found}
    )  # fmt: skip
    shown = as_decided(best(chosen, chosen))
    for panel in (shown.chosen.panel or {}, shown.front[0].panel or {}):
        low, high = (-0.6, 0.05) if higher_is_better else (-0.05, 0.6)
        assert panel["ssim"].difference == Estimate(value=-0.3 if higher_is_better else 0.3, low=low, high=high)
        assert panel["ssim"].verdict == "in doubt" and panel["psnr"] == found
    assert shown.baseline == point(0, 1.0)

"""The finalists' panel and their strips, and what of it reaches a person."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuner.errors import BadInput
from tuner.quality import strips
from tuner.quality.examine import examine
from tuner.quality.metrics import METRICS
from tuner.quality.pictures import Pictures
from tuner.record import Panel, PanelJob, QualityPolicy, Workload, decode, encode

SIDE = 64
PROMPTS = tuple(f"a red circle and {count} squares" for count in range(6))
WORKLOAD = Workload(prompts=PROMPTS, seeds=tuple(range(6)), height=SIDE, width=SIDE)


def stills(seed: int = 0, count: int = 6) -> Any:
    coarse = np.random.default_rng(seed).random((count, 8, 8, 3), np.float32)
    return coarse.repeat(SIDE // 8, 1).repeat(SIDE // 8, 2)


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory, tiny_scorer: Path) -> tuple[Panel, Path]:
    folder = tmp_path_factory.mktemp("study")
    drawn = {
        "0": stills(),
        "3": np.clip(stills() + 0.001, 0, 1),
        "5": 0.5 * stills() + 0.25,
        "7": stills(1)[:4],
        "varied": np.clip(stills()[:4] + 0.02 * stills(2)[:4], 0, 1),
    }
    for name, pictures in drawn.items():
        Pictures.drawn(pictures, PROMPTS[: len(pictures)]).save(folder / name)
    job = PanelJob(
        workload=WORKLOAD, device="cpu", scorer=str(tiny_scorer), policy=QualityPolicy(given={}),
        images={int(name): str(folder / name) for name in ("0", "3", "5", "7")}, strips=str(folder / "strips"),
        variations=(str(folder / "varied"),),
    )  # fmt: skip
    assert decode(encode(job), PanelJob, "a job") == job
    return examine(job), folder


def test_every_metric_is_measured_or_said_to_be_missing(panel: tuple[Panel, Path]) -> None:
    found, _ = panel
    assert set(found.finalists) == {0, 3, 5, 7}
    for measured in found.finalists.values():
        assert set(measured) | set(found.lacks) == set(METRICS)
    assert {"clip_score", "clip_similarity", "psnr", "ssim", "ms_ssim", "cmmd"} <= set(found.finalists[5])
    assert "--metric preference=PATH" in found.lacks["preference"]
    assert decode(encode(found), Panel, "a panel") == found


def test_the_verdict_is_stated_against_the_noise_floor(panel: tuple[Panel, Path]) -> None:
    finalists = panel[0].finalists
    assert {one.verdict for one in finalists[0].values()} == {"same"}
    assert finalists[3]["ssim"].verdict == "same"
    assert finalists[5]["ssim"].verdict == "worse"
    assert finalists[5]["ssim"].floor == finalists[3]["ssim"].floor
    assert finalists[5]["clip_score"].difference is not None
    assert finalists[5]["psnr"].difference is None


def test_a_finalist_that_was_scored_on_fewer_prompts_is_compared_on_those(panel: tuple[Panel, Path]) -> None:
    assert panel[0].finalists[7]["psnr"].value.value < 15


def test_a_strip_has_three_rows_the_last_grey_where_nothing_changed(panel: tuple[Panel, Path]) -> None:
    from PIL import Image

    folder = panel[1] / "strips"
    assert sorted(path.name for path in folder.iterdir()) == ["0003.png", "0005.png", "0007.png"]
    with Image.open(folder / "0003.png") as opened:
        strip = np.asarray(opened)
    cell = strips.CELL + strips.GAP
    assert strip.shape == (3 * cell - strips.GAP, strips.MOST_PICTURES * cell - strips.GAP, 3)
    last = strip[2 * cell : 2 * cell + strips.CELL, : strips.CELL]
    assert np.abs(last.astype(int) - 127).max() < 8
    with Image.open(folder / "0007.png") as opened:
        assert np.asarray(opened)[2 * cell :, : strips.CELL].std() > 40


def test_the_users_own_metric_is_among_them(tmp_path: Path, tiny_scorer: Path) -> None:
    Pictures.drawn(stills(), PROMPTS).save(tmp_path / "0")
    job = PanelJob(
        workload=WORKLOAD, device="cpu", scorer=str(tiny_scorer), policy=QualityPolicy(metric="nowhere:at_all"),
        images={0: str(tmp_path / "0")}, strips=str(tmp_path / "strips"),
    )  # fmt: skip
    found = examine(job)
    assert "cannot be imported" in found.lacks["nowhere:at_all"]
    assert {one.verdict for one in found.finalists[0].values()} == {"same"}


def test_the_prompts_of_real_pipelines_are_many_and_of_all_kinds() -> None:
    from tuner import space_file

    kept = json.loads((space_file.folder() / "prompts.json").read_text())
    assert len(set(kept["prompts"])) == len(kept["prompts"]) == len(kept["topics"]) >= 64
    topics = ("objects", "counts", "colours", "positions", "text", "people", "style")
    assert set(kept["topics"]) == set(topics)
    assert all(kept["topics"].count(topic) >= 8 for topic in topics)
    assert set(kept["topics"][:7]) == set(topics), "the first few, which alone may decide, are of all kinds"
    assert kept["version"] >= 2


def test_the_tolerance_is_the_metrics_own_unless_it_is_set(tmp_path: Path) -> None:
    from tuner import environment, pipeline, space_file

    _, kind = pipeline.resolve("demo", None, None)
    here, path = environment.detect("cpu"), space_file.folder() / "demo.yaml"
    assert space_file.load(path, kind, here).tolerance == 1.0
    assert space_file.load(path, kind, here, metric="ssim").tolerance == METRICS["ssim"].tolerance
    assert space_file.load(path, kind, here, ["quality.tolerance=0.3"], "ssim").tolerance == 0.3
    with pytest.raises(BadInput, match=r"quality\.tolerance=POINTS"):
        space_file.load(path, kind, here, metric="mine:score")
    assert space_file.load(path, kind, here, ["quality.tolerance=2"], "mine:score").tolerance == 2

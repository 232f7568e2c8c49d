"""The finalists' panel and their strips, and what of it reaches a person."""

from __future__ import annotations

import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tuner.errors import BadInput
from tuner.quality import strips
from tuner.quality.examine import examine
from tuner.quality.images import Images
from tuner.quality.metrics import METRICS, MetricContext
from tuner.quality.metrics.distribution import Fid
from tuner.records.codec import decode, encode
from tuner.records.model import Workload
from tuner.records.quality import Panel, PanelJob, QualityPolicy

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
    for name, images in drawn.items():
        Images.from_pipeline(images, PROMPTS[: len(images)]).save(folder / name)
    job = PanelJob(
        workload=WORKLOAD, device="cpu", scorer=str(tiny_scorer), policy=QualityPolicy(metric_paths={}),
        images={int(name): str(folder / name) for name in ("0", "3", "5", "7")}, strips=str(folder / "strips"),
        variations=(str(folder / "varied"),),
    )  # fmt: skip
    assert decode(encode(job), PanelJob, "a job") == job
    return examine(job), folder


def test_every_metric_is_measured_or_said_to_be_missing(panel: tuple[Panel, Path]) -> None:
    found, _ = panel
    assert set(found.finalists) == {0, 3, 5, 7}
    for measured in found.finalists.values():
        assert set(measured) | set(found.unavailable_reasons) == set(METRICS)
    assert {"clip_score", "clip_similarity", "psnr", "ssim", "ms_ssim", "cmmd"} <= set(found.finalists[5])
    assert "--metric preference=PATH" in found.unavailable_reasons["preference"]
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
    finalists = panel[0].finalists
    assert finalists[7]["psnr"].value.value < 15
    few, all_of_baseline = finalists[7]["clip_score"], finalists[0]["clip_score"]
    assert few.difference is not None
    assert few.value.value == pytest.approx(all_of_baseline.value.value + few.difference.value, abs=1e-4)
    assert few.value.low < few.value.value < few.value.high


def test_a_strip_has_three_rows_the_last_grey_where_nothing_changed(panel: tuple[Panel, Path]) -> None:
    from PIL import Image

    folder = panel[1] / "strips"
    assert sorted(path.name for path in folder.iterdir()) == ["0003.png", "0005.png", "0007.png"]
    with Image.open(folder / "0003.png") as opened:
        strip = np.asarray(opened)
    cell = strips.CELL + strips.GAP
    images = strip[strips.TOP :, strips.LEFT :]
    assert images.shape == (3 * cell - strips.GAP, strips.MAX_IMAGES * cell - strips.GAP, 3)
    assert np.abs(images[2 * cell :, : strips.CELL].astype(int) - 127).max() < 8
    with Image.open(folder / "0007.png") as opened:
        assert np.asarray(opened)[strips.TOP + 2 * cell :, strips.LEFT : strips.LEFT + strips.CELL].std() > 40


def test_a_strip_says_what_its_rows_and_columns_are(panel: tuple[Panel, Path]) -> None:
    from PIL import Image

    read = []
    for name in ("0003.png", "0005.png"):
        with Image.open(panel[1] / "strips" / name) as opened:
            read.append(np.asarray(opened.convert("L")).astype(int))
    one, other = read
    cell = strips.CELL + strips.GAP
    for column in range(strips.MAX_IMAGES):
        start = strips.LEFT + column * cell
        assert one[: strips.TOP, start : start + strips.CELL].min() < 100, "no prompt"
    for row in range(3):
        start = strips.TOP + row * cell
        label, others = (of[start : start + strips.CELL, : strips.LINE] for of in (one, other))
        assert label.min() < 100, "no name"
        assert (label == others).all() == (row != 1), "the trials have names of their own, the other rows have not"


def test_the_users_own_metric_is_among_them(tmp_path: Path, tiny_scorer: Path) -> None:
    Images.from_pipeline(stills(), PROMPTS).save(tmp_path / "0")
    job = PanelJob(
        workload=WORKLOAD, device="cpu", scorer=str(tiny_scorer), policy=QualityPolicy(metric="nowhere:at_all"),
        images={0: str(tmp_path / "0")}, strips=str(tmp_path / "strips"),
    )  # fmt: skip
    found = examine(job)
    assert "cannot be imported" in found.unavailable_reasons["nowhere:at_all"]
    assert {one.verdict for one in found.finalists[0].values()} == {"same"}


def test_the_prompts_of_real_pipelines_are_many_and_of_all_kinds() -> None:
    from tuner.space import reader

    kept = json.loads((reader.shipped_folder() / "prompts.json").read_text())
    assert len(set(kept["prompts"])) == len(kept["prompts"]) == len(kept["topics"]) >= 64
    topics = ("objects", "counts", "colours", "positions", "text", "people", "style")
    assert set(kept["topics"]) == set(topics)
    assert all(kept["topics"].count(topic) >= 8 for topic in topics)
    assert set(kept["topics"][:7]) == set(topics), "the first few, which alone may decide, are of all kinds"
    assert kept["version"] >= 2


def test_the_tolerance_is_the_metrics_own_unless_it_is_set(tmp_path: Path) -> None:
    from tuner.hardware import environment
    from tuner.model import pipeline
    from tuner.space import reader

    _, kind = pipeline.resolve("demo", None, None)
    here, path = environment.detect("cpu"), reader.shipped_folder() / "demo.yaml"
    assert reader.load(path, kind, here).tolerance == 1.0
    assert reader.load(path, kind, here, metric="ssim").tolerance == METRICS["ssim"].tolerance
    assert reader.load(path, kind, here, ["quality.tolerance=0.3"], "ssim").tolerance == 0.3
    with pytest.raises(BadInput, match=r"quality\.tolerance=POINTS"):
        reader.load(path, kind, here, metric="mine:score")
    assert reader.load(path, kind, here, ["quality.tolerance=2"], "mine:score").tolerance == 2


# ---- what goes wrong costs the metric, not the panel ----------------------------------------------------------------


def asked(folder: Path, scorer: Path, **changes: Any) -> PanelJob:
    for trial, images in {0: stills(), 3: 0.5 * stills() + 0.25}.items():
        Images.from_pipeline(images, PROMPTS).save(folder / str(trial))
    job = PanelJob(
        workload=WORKLOAD, device="cpu", scorer=str(scorer), policy=QualityPolicy(metric="ssim"),
        images={trial: str(folder / str(trial)) for trial in (0, 3)}, strips=str(folder / "strips"),
    )  # fmt: skip
    return msgspec.structs.replace(job, **changes)


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (
            RuntimeError("CUDA out of memory.\n  Tried to allocate"),
            "RuntimeError: CUDA out of memory. Tried to allocate",
        ),
        (KeyError("no such key"), "KeyError"),
        (math.nan, "gives NaN or infinity"),
        (math.inf, "gives NaN or infinity"),
    ],
)
def test_a_metric_that_fails_costs_only_itself(
    outcome: Exception | float, said: str, tmp_path: Path, tiny_scorer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(*_: Any) -> tuple[float, ...]:
        if isinstance(outcome, Exception):
            raise outcome
        return (outcome,) * len(PROMPTS)

    monkeypatch.setattr(METRICS["ms_ssim"], "scores", scores, raising=False)
    found = examine(asked(tmp_path, tiny_scorer))
    assert said in found.unavailable_reasons["ms_ssim"]
    assert "\n" not in found.unavailable_reasons["ms_ssim"]
    assert {"ssim", "clip_score"} <= set(found.finalists[3])
    assert decode(encode(found), Panel, "a panel") == found


def test_a_folder_that_is_missing_costs_only_itself(tmp_path: Path, tiny_scorer: Path) -> None:
    images = {0: str(tmp_path / "0"), 3: str(tmp_path / "3"), 9: str(tmp_path / "9")}
    found = examine(asked(tmp_path, tiny_scorer, images=images, variations=(str(tmp_path / "gone"),)))
    assert set(found.finalists) == {0, 3}
    assert "no images" in found.unavailable_reasons["trial 9"]
    assert "no images" in found.unavailable_reasons["noise floor of gone"]
    assert found.finalists[3]["ssim"].verdict == "not judged"


@pytest.mark.parametrize(("name", "package"), [("lpips", "lpips"), ("hps", "hpsv2"), ("image_reward", "ImageReward")])
def test_weights_are_fetched_only_when_asked_for(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / ".cache" if variable != "HOME" else tmp_path))
    for variable in ("TORCH_HOME", "HF_HOME"):
        monkeypatch.delenv(variable, raising=False)
    unnamed = METRICS[name].unavailable_reason(MetricContext("cpu", "", {}, {"ssim"}))
    assert unnamed is not None
    assert f"--quality {name}" in unnamed
    assert METRICS[name].unavailable_reason(MetricContext("cpu", "", {}, {name})) is None
    assert METRICS[name].unavailable_reason(MetricContext("cpu", "", {})) is None
    cache = tmp_path / ".cache"
    for file in (
        "torch/hub/checkpoints/alexnet-owt-7be5be79.pth", "ImageReward/ImageReward.pt", "ImageReward/med_config.json",
        "huggingface/hub/models--bert-base-uncased/snapshots/1/vocab.txt",
        "huggingface/hub/models--xswu--HPSv2/snapshots/1/HPS_v2_compressed.pt",
        "huggingface/hub/models--laion--CLIP-ViT-H-14-laion2B-s32B-b79K/snapshots/1/open_clip_pytorch_model.bin",
    ):  # fmt: skip
        (cache / file).parent.mkdir(parents=True, exist_ok=True)
        (cache / file).touch()
    assert METRICS[name].unavailable_reason(MetricContext("cpu", "", {}, {"ssim"})) is None


def test_fid_has_no_verdict(tmp_path: Path, tiny_scorer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fid, "unavailable_reason", lambda *_: None)
    monkeypatch.setattr(Fid, "features", lambda _, of, __: of.stills.reshape(len(of.stills), -1)[:, :64])
    Images.from_pipeline(stills(2)[:4], PROMPTS[:4]).save(tmp_path / "varied")
    fid = {
        trial: found["fid"]
        for trial, found in examine(
            asked(tmp_path, tiny_scorer, variations=(str(tmp_path / "varied"),))
        ).finalists.items()
    }
    assert fid[3].value.value > 0
    assert (fid[3].verdict, fid[3].floor) == ("not judged", None)
    assert fid[0].verdict == "same"


def test_a_finalist_of_too_few_images_costs_no_other_the_metric(tmp_path: Path, tiny_scorer: Path) -> None:
    job = asked(tmp_path, tiny_scorer)
    Images.from_pipeline(stills(3)[:2], PROMPTS[:2]).save(tmp_path / "2")
    found = examine(msgspec.structs.replace(job, images={**job.images, 2: str(tmp_path / "2")}))
    assert "cmmd" in found.finalists[3]
    assert "cmmd" not in found.finalists[2]
    assert "ssim" in found.finalists[2]

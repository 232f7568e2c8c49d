"""What of an outcome TensorBoard shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from kinds import kind
from PIL import Image
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from viewed_study import image

from tuner.board import events_file, trial_events
from tuner.files import thumbnail_path
from tuner.quality.images import Images
from tuner.records.codec import Estimate, Values
from tuner.records.gate import Finding, FindingKind, GatePolicy, Verdict
from tuner.records.model import Workload
from tuner.records.outcome import Build, Failure, Outcome, Timing
from tuner.records.quality import Quality
from tuner.space.candidates import SearchSpace

BASELINE: Values = {"compile.scope": "none", "steps": 28, "batch": 1}
SPACE = SearchSpace(
    name="small", architecture=kind(), workload=Workload(prompts=("a red cat", "a dog"), seeds=(1, 2)), tolerance=1.0,
    gate=GatePolicy(), baseline=BASELINE, recipes=(), left_out={},
    knobs={"compile.scope": ("none", "full"), "compile.mode": ("default", "reduce-overhead"), "steps": (28,)},
)  # fmt: skip


def outcome(number: int = 1, status: Any = "measured", different: Values | None = None, **more: Any) -> Outcome:
    values = {**BASELINE, **(different or {})}
    key = str(values["compile.scope"])
    return Outcome(number=number, purpose="search", values=values, build_key=key, image_key="i", status=status, **more)


def rejected(
    number: int, finding: FindingKind, allowed_by: str | None = None, scope: str = "full", source: str = "model.py:7"
) -> Outcome:
    found = Finding(
        kind=finding, count=3, count_per_step=1, idle_ms_per_step=0.25, operator="aten::item", reason="waits",
        source=source, allowed_by=allowed_by,
    )  # fmt: skip
    build = Build(
        changes={},
        load_s=1,
        apply_s=1,
        first_call_s=1,
        trace=None,
        verdict=Verdict(status="rejected", findings=(found,)),
    )
    status = "rejected" if allowed_by is None else "measured"
    return outcome(number, status, {"compile.scope": scope}, build=build)


def test_a_status_is_a_word_to_filter_by() -> None:
    assert trial_events.status(outcome()) == "ok"
    assert trial_events.status(rejected(1, "device sync")) == "rejected:sync"
    assert trial_events.status(rejected(1, "graph break")) == "rejected:break"
    assert trial_events.status(rejected(1, "device sync", allowed_by="cache.kind")) == "ok"
    failed = outcome(status="failed", failure=Failure(kind="timeout", stage="warm up", message="too slow"))
    assert trial_events.status(failed) == "failed:timeout"


def test_the_result_is_marked() -> None:
    places: tuple[trial_events.Place, ...] = (None, "front", "chosen")
    assert [trial_events.result(outcome(0), place) for place in places] == [
        "baseline",
        "baseline front",
        "baseline chosen",
    ]
    assert [trial_events.result(outcome(1), place) for place in places] == ["-", "front", "chosen"]


def test_what_a_study_varies_has_a_value_in_each_row() -> None:
    assert trial_events.knobs(outcome(), SPACE) == {
        "compile.scope": "none", "compile.mode": trial_events.NOTHING, "steps": "28", "batch": "1",
    }  # fmt: skip


def test_the_text_says_what_was_found_and_where() -> None:
    text = trial_events.text(rejected(7, "device sync"), SPACE)
    assert "**trial 7: `compile.scope=full`**" in text
    assert "- rejected:sync, from the search" in text
    assert "- **device sync** x3, 0.250 ms of idle GPU a step: waits (`model.py:7`)" in text
    assert trial_events.text(rejected(7, "device sync", source=""), SPACE).endswith("idle GPU a step: waits")


def test_a_trial_is_named_by_its_own_values() -> None:
    sweep = msgspec.structs.replace(outcome(3, different={"steps": 6}), purpose="baseline")
    text = trial_events.text(sweep, SPACE)
    assert text.startswith("**trial 3: `steps=6`**")
    assert "the untouched pipeline at other steps" in text
    assert trial_events.text(outcome(0), SPACE).startswith("**trial 0: `baseline`**")


def test_the_text_says_what_was_measured() -> None:
    latency = Estimate(value=0.153, low=0.151, high=0.156)
    quality = Quality(
        metric="clip_score", scores=(52.0, 53.0), mean=52.5, difference=Estimate(value=-0.05, low=-0.22, high=0.01),
        psnr_db=None, ssim=None,
    )  # fmt: skip
    timing = Timing(latency_s=latency, samples=9, images_per_s=6.53, stopped="interval within target")
    measured = outcome(timing=timing, quality=quality)
    text = trial_events.text(measured, SPACE)
    assert "- latency: 153 ms [151 ms, 156 ms], 6.53 images/s" in text
    assert "- clip_score: 52.50, -0.05 [-0.22, +0.01] against the baseline" in text
    assert trial_events.metrics(measured)["quality_difference"] == -0.05


def test_an_image_is_shown_with_its_prompt_and_the_baselines(tmp_path: Path) -> None:
    trials = tmp_path / "trials"
    of_baseline = trials / "0000" / "images" / "0001.png"
    for number in (0, 1):
        image(trials / f"{number:04}" / "images" / "0001.png", "#d33", 9)
    (own,) = trial_events.trial_images(trials / "0001", outcome(1), SPACE)
    assert (own.shows, own.baseline) == ("a dog", of_baseline)
    assert own.of == "left the baseline's image, right this trial's"
    (first,) = trial_events.trial_images(trials / "0000", outcome(0), SPACE)
    assert (first.of, first.baseline) == ("the baseline's image", None)
    of_baseline.unlink()
    image(tmp_path / "strips" / "0001.png", "#d33", 9)
    (strip,) = trial_events.strip_image(trials / "0001", outcome(1), SPACE)
    (alone,) = trial_events.trial_images(trials / "0001", outcome(1), SPACE)
    assert (strip.tag, strip.of, strip.baseline) == ("finalists/strip", "baseline", None)
    assert (alone.of, alone.baseline) == ("this trial's image", None)


@pytest.mark.parametrize("size", [0, 3, 100_000])
def test_records_have_the_checksums_that_tensorboard_computes(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    record = events_file._record(data)
    assert record[12:-4] == data and int.from_bytes(record[:8], "little") == size
    for checksum, of in ((record[8:12], record[:8]), (record[-4:], data)):
        assert int.from_bytes(checksum, "little") == masked_crc32c(of)


def test_an_image_is_there_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    from PIL import Image

    from tuner.quality.images import Images

    def is_killed(image: Any, file: Path, *_: Any, **__: Any) -> None:
        file.write_bytes(b"half of it")
        raise KeyboardInterrupt

    images = Images.from_pipeline(np.full((1, 8, 8, 3), 0.5), ["a red cat"])
    images.save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["0000.png"]
    whole = (tmp_path / "0000.png").read_bytes()
    monkeypatch.setattr(Image.Image, "save", is_killed)
    with pytest.raises(KeyboardInterrupt):
        images.save(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.glob("*.png")} == {"0000.png": whole}


def test_pages_are_made_of_small_copies_of_large_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    large = Images(rng.random((2, 520, 600, 3), dtype=np.float32), ["a", "b"])
    large.save(tmp_path / "large")
    Images(large.stills[:1], ["a"]).save(tmp_path / "one")
    file = tmp_path / "large" / "0001.png"
    with Image.open(thumbnail_path(file)) as small:
        assert small.size == (512, 444)
    file.write_bytes(b"")
    shown = events_file.ShownImage(file, "images/0001", "b", "", baseline=tmp_path / "one" / "0000.png")
    sheet = events_file._side_by_side(shown)
    assert sheet is not None
    assert sheet.size == (512 + 32 + 512, 444)
    large.save(tmp_path / "large", first=1)
    with Image.open(file) as again:
        assert again.size == (600, 520), "the image itself stays as large"
    Images(large.stills[:, :64, :64], ["a", "b"]).save(tmp_path / "small")
    assert not thumbnail_path(tmp_path / "small" / "0000.png").exists()

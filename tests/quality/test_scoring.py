"""Scoring of a build: what the baseline leaves for others to be judged against, and when scoring stops early."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tuner import knobs
from tuner.hardware import environment
from tuner.model import pipeline
from tuner.quality import reference
from tuner.quality.guards import InvalidImage
from tuner.quality.images import select_frames
from tuner.records.model import Model, Workload
from tuner.records.protocol import Drawn, Job, Point
from tuner.records.quality import Quality, Reference
from tuner.worker import scoring
from tuner.worker.scoring import Scoring

STEPS = 2


def job(folder: Path, scorer: Path, prompts: int, batch: int = 1) -> tuple[Job, Point]:
    here = environment.detect("cpu")
    workload = Workload(
        prompts=tuple(f"a circle and {number} squares" for number in range(prompts)), seeds=tuple(range(prompts)),
        height=32, width=32, max_sequence_length=64,
    )  # fmt: skip
    build = {name: value for name, value in knobs.baseline(here).items() if knobs.KNOBS[name].acts == "build"}
    model = Model(source=str(folder), revision=None, pipeline_class="FluxPipeline", scorer=str(scorer))
    point = Point(index=0, folder="", steps=STEPS, batch=batch)
    return Job(model=model, environment=here, workload=workload, build=build, points=(point,), allowance_s=1.0), point


def scorer_of(asked: Job, pipe: Any, call_s: float = 0.1) -> Scoring:
    def draw(point: Point, first: int, end: int) -> Any:
        return Scoring.generate_some(made, point, range(first, end))

    made = Scoring(pipe, asked, draw, lambda: None, call_s)
    return made


@pytest.fixture(scope="module")
def scored(
    pipeline_folder: Callable[[str], Path], tiny_scorer: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Job, Point, Quality, Path]:
    asked, point = job(pipeline_folder("flux"), tiny_scorer, prompts=5)
    pipe = pipeline.load(asked.model, asked.environment, "float32")
    folder = tmp_path_factory.mktemp("baseline")
    quality = scorer_of(asked, pipe).score(msgspec.structs.replace(point, folder=str(folder)))
    assert quality is not None
    return pipe, asked, point, quality, folder


def test_the_baseline_leaves_its_noise_floor_other_seeds_and_its_denoisers_calls(
    scored: tuple[Any, Job, Point, Quality, Path],
) -> None:
    _, _, _, quality, folder = scored
    assert quality.noise is not None
    assert set(quality.noise.variations) == {"another attention kernel", "another batch position"}
    assert quality.noise.unavailable_reasons == ()
    assert 0 <= quality.noise.max_difference < 1
    for path in (*quality.noise.variations.values(), str(folder / reference.OTHER_SEEDS)):
        assert len(list(Path(path).glob("*.png"))) == scoring.VARIED
    known = reference.baseline_reference(folder, quality)
    assert known.denoiser is not None
    assert known.other_seeds is not None
    assert known.floor == quality.noise.max_difference
    assert quality.spent_s > 0


def test_compiled_blocks_are_a_variation_where_rounding_shows(
    only_dynamo: None, pipeline_folder: Callable[[str], Path], tiny_scorer: Path, tmp_path: Path
) -> None:
    from torch._dynamo.utils import counters
    from torch._inductor import config as inductor

    asked, point = job(pipeline_folder("flux"), tiny_scorer, prompts=2)
    asked = msgspec.structs.replace(asked, build={**asked.build, "precision.dtype": "bfloat16"})
    pipe = pipeline.load(asked.model, asked.environment, "bfloat16")
    blocks = [*pipe.transformer.transformer_blocks, *pipe.transformer.single_transformer_blocks]
    scoring, point = scorer_of(asked, pipe), msgspec.structs.replace(point, folder=str(tmp_path))
    assert scoring.score(point) is not None
    before = counters["stats"]["unique_graphs"]
    noise = scoring.compiled_noise(point)
    assert counters["stats"]["unique_graphs"] > before
    assert noise.unavailable_reasons == ()
    assert len(list(Path(noise.variations["compiled with emulated casts"]).glob("*.png"))) == 2
    assert not any("forward" in vars(block) for block in blocks), "the blocks are as they were"
    assert not inductor.emulate_precision_casts


@pytest.mark.parametrize("draws_alike", [True, False])
def test_seeds_are_only_held_against_a_precision_that_draws_the_same_noise(
    draws_alike: bool, scored: tuple[Any, Job, Point, Quality, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    drawn = torch.randn

    def randn(*size: int, dtype: Any, **more: Any) -> Any:
        other = 0.0 if draws_alike else float(dtype == torch.bfloat16)
        return drawn(*size, dtype=torch.float32, **more) + other

    monkeypatch.setattr(torch, "randn", randn)
    pipe, asked, _, _, _ = scored
    assert scorer_of(asked, pipe).draws_same_noise()
    half = msgspec.structs.replace(asked, build={**asked.build, "precision.dtype": "bfloat16"})
    assert scorer_of(half, pipe).draws_same_noise() == draws_alike


def test_in_float32_compiling_shows_nothing(scored: tuple[Any, Job, Point, Quality, Path]) -> None:
    pipe, asked, point, _, folder = scored
    noise = scorer_of(asked, pipe).compiled_noise(msgspec.structs.replace(point, folder=str(folder)))
    assert noise.variations == {}
    (said,) = noise.unavailable_reasons
    assert said == "compiled with emulated casts: in float32 they round finer than an image's 8 bits show"


def test_a_candidate_gets_its_denoiser_error_or_the_reason(
    scored: tuple[Any, Job, Point, Quality, Path], tmp_path: Path
) -> None:
    pipe, asked, point, quality, folder = scored
    known = msgspec.structs.replace(reference.baseline_reference(folder, quality), other_seeds=None)
    asked = msgspec.structs.replace(asked, reference=known)
    same = scorer_of(asked, pipe).score(msgspec.structs.replace(point, folder=str(tmp_path / "same")))
    assert same is not None
    assert same.denoiser_error is not None
    assert same.denoiser_error.largest < 1e-5
    fewer = scorer_of(asked, pipe).score(msgspec.structs.replace(point, folder=str(tmp_path / "fewer"), steps=1))
    assert fewer is not None
    assert fewer.denoiser_error is None
    assert "steps changes the steps" in str(fewer.denoiser_error_unavailable_reason)
    batched = scorer_of(asked, pipe).score(msgspec.structs.replace(point, folder=str(tmp_path / "batched"), batch=4))
    assert batched is not None
    assert batched.denoiser_error is not None
    assert batched.denoiser_error.largest < 1e-3


def test_of_slow_calls_the_denoiser_error_is_that_of_a_few(
    scored: tuple[Any, Job, Point, Quality, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, asked, point, quality, folder = scored
    known = msgspec.structs.replace(reference.baseline_reference(folder, quality), other_seeds=None)
    asked = msgspec.structs.replace(asked, reference=known)
    monkeypatch.setattr(scoring, "COMPARED_SLOW", 1)
    counts = []
    for call_s in (0.1, 2.0):
        found = scorer_of(asked, pipe, call_s).score(msgspec.structs.replace(point, folder=str(tmp_path / str(call_s))))
        assert found is not None
        assert found.denoiser_error is not None
        counts.append(len(found.denoiser_error.per_call))
    assert counts == [point.steps, 1]


@pytest.mark.parametrize(
    ("better", "prompts", "decision"),
    [
        pytest.param(0.0, 16, "surely within the tolerance", id="equal images"),
        pytest.param(-30.0, 4, "surely worse", id="far worse"),
        pytest.param(-0.5, 20, None, id="in doubt to the end"),
    ],
)
def test_candidates_are_judged_on_as_many_images_as_the_verdict_needs(
    scored: tuple[Any, Job, Point, Quality, Path], tmp_path: Path, tiny_scorer: Path, better: float, prompts: int,
    decision: str | None, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pipe, first, _, _, _ = scored
    asked, point = job(Path(first.model.source), tiny_scorer, 20, batch=4)
    asked, point = msgspec.structs.replace(asked, tolerance=0.5), msgspec.structs.replace(point, folder=str(tmp_path))
    made = scorer_of(asked, pipe)
    own = made.judge_images(point, tmp_path / "baseline")
    alternating = tuple(
        score - better + (-1) ** index * 0.3 * (better == -0.5) for index, score in enumerate(own.scores)
    )
    made.reference = Reference(images=str(tmp_path / "baseline"), scores=alternating)
    judged = made.judge_images(point, tmp_path / "candidate")
    assert len(judged.scores) == prompts
    assert [flag for flag in judged.flags if "prompts" in flag] == (
        [f"scored on {prompts} of 20 prompts: {decision}"] if decision else []
    )


@pytest.mark.parametrize(("reference_s", "count"), [(None, 16), (100.0, 16), (10.0, 8), (1.0, 4)])
def test_the_baseline_has_as_many_images_as_its_time_allows(
    scored: tuple[Any, Job, Point, Quality, Path], tmp_path: Path, tiny_scorer: Path, reference_s: float | None,
    count: int, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pipe, first, _, _, _ = scored
    asked, point = job(Path(first.model.source), tiny_scorer, 16)
    made = scorer_of(msgspec.structs.replace(asked, reference_s=reference_s), pipe, call_s=1.0)
    point = msgspec.structs.replace(point, folder=str(tmp_path))
    drawn: list[int] = []
    draw = made.draw
    monkeypatch.setattr(made, "draw", lambda *given: drawn.extend(range(*given[1:])) or draw(*given))
    own = made.judge_images(point, tmp_path)
    assert drawn == list(range(count)), "the call whose denoiser is recorded is one of these"
    assert len(own.scores) == len(made.workload.prompts) == len(made.workload.seeds) == count
    assert len(list(tmp_path.glob("*.png"))) == count
    made.reference = Reference(images=str(tmp_path), scores=own.scores)
    assert len(made.judge_images(point, tmp_path / "again").scores) == count, "a later point is judged against these"


@pytest.mark.parametrize("when", ["before the images", "after them"])
def test_calls_that_cannot_be_recorded_cost_only_the_denoisers_error(
    scored: tuple[Any, Job, Point, Quality, Path], tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, asked, point, quality, _ = scored
    file = tmp_path / reference.DENOISER

    def fail(pipe: Any, call: Callable[[], object], file: Path, about: Any) -> None:
        if when == "after them":
            call()
            file.write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(scoring.denoiser, "record", fail)
    made = scorer_of(asked, pipe)
    own = made.judge_images(msgspec.structs.replace(point, folder=str(tmp_path)), tmp_path / "images")
    assert own.scores == quality.scores
    assert own.denoiser_error_unavailable_reason == "no space left on device"
    assert not file.exists()


def test_a_slow_baseline_varies_less(scored: tuple[Any, Job, Point, Quality, Path], tmp_path: Path) -> None:
    pipe, asked, point, _, _ = scored
    made = scorer_of(asked, pipe, call_s=5.0)
    quality = made.score(msgspec.structs.replace(point, folder=str(tmp_path)))
    assert quality is not None and quality.noise is not None
    assert set(quality.noise.variations) == {"another attention kernel"}
    assert len(list((tmp_path / reference.OTHER_SEEDS).glob("*.png"))) == scoring.VARIED // 2
    assert (
        "a call takes"
        in made.compiled_noise(msgspec.structs.replace(point, folder=str(tmp_path))).unavailable_reasons[0]
    )


@pytest.mark.parametrize(
    ("reference_s", "has_seeds", "has_noise"), [(44.0, True, True), (34.0, True, False), (29.0, False, False)]
)
def test_images_that_are_only_compared_with_are_left_out_where_a_call_takes_too_long(
    scored: tuple[Any, Job, Point, Quality, Path], tmp_path: Path, reference_s: float, has_seeds: bool, has_noise: bool
) -> None:
    """Five prompts of 5 s each, then two from other seeds, then two by another kernel."""
    pipe, asked, point, _, _ = scored
    made = scorer_of(msgspec.structs.replace(asked, reference_s=reference_s + 1), pipe, call_s=5.0)
    quality = made.score(msgspec.structs.replace(point, folder=str(tmp_path)))
    assert quality is not None and quality.noise is not None and len(quality.scores) == 5
    assert (tmp_path / reference.OTHER_SEEDS).is_dir() is has_seeds
    assert bool(quality.noise.variations) is has_noise
    left_out = [reason for reason in quality.noise.unavailable_reasons if scoring.NO_TIME in reason]
    assert len(left_out) == 2 - has_seeds - has_noise
    assert made.reference is not None and (made.reference.other_seeds is not None) is has_seeds


def test_a_frame_that_is_not_judged_must_be_finite_too() -> None:
    video = np.random.default_rng(0).random((2, 81, 4, 4, 3), np.float32)
    assert scoring.scored_frames(video, [6, 7]).shape == (2, 8, 4, 4, 3)
    video[1, 7] = np.nan
    assert np.isfinite(select_frames(video)).all()
    with pytest.raises(InvalidImage, match="image 7 contains NaN"):
        scoring.scored_frames(video, [6, 7])


def test_further_prompts_are_judged_with_those_before(
    scored: tuple[Any, Job, Point, Quality, Path], tmp_path: Path
) -> None:
    """Three prompts, then five: as if all five had been judged at once, and only two are generated."""
    pipe, asked, point, at_once, _ = scored
    few = msgspec.structs.replace(asked, workload=asked.workload.first(3))
    first = scorer_of(few, pipe).score(msgspec.structs.replace(point, folder=str(tmp_path / "first")))
    assert first is not None and len(first.scores) == 3
    drawn = Drawn(images=str(tmp_path / "first" / "images"), prompts=3)
    made = scorer_of(asked, pipe)
    draw, generated = made.draw, []
    made.draw = lambda point, start, end: (generated.append((start, end)), draw(point, start, end))[1]
    further = msgspec.structs.replace(point, folder=str(tmp_path / "further"), drawn=drawn)
    baseline = made.score(further)
    assert baseline is not None and baseline.scores == pytest.approx(at_once.scores, abs=1e-4)
    assert generated == [(3, 5)]
    assert len(list((tmp_path / "further" / "images").glob("*.png"))) == 5
    assert baseline.noise is None, "that is known"
    known = Reference(images=str(tmp_path / "further" / "images"), scores=baseline.scores)
    own = scorer_of(msgspec.structs.replace(asked, reference=known), pipe)
    same = own.score(msgspec.structs.replace(further, folder=str(tmp_path / "own")))
    assert same is not None and len(same.scores) == 5
    assert same.difference.value == pytest.approx(0.0, abs=1e-3)
    assert same.psnr_db is not None and same.psnr_db > 90


def test_further_prompts_need_the_images_of_those_before(
    scored: tuple[Any, Job, Point, Quality, Path], tmp_path: Path
) -> None:
    pipe, asked, point, _, folder = scored
    shutil.copytree(folder / "images", tmp_path / "known")
    for index in (2, 3, 4):
        (tmp_path / "known" / f"{index:04}.png").unlink()
    drawn = Drawn(images=str(tmp_path / "known"), prompts=3)
    further = msgspec.structs.replace(point, folder=str(tmp_path), drawn=drawn)
    with pytest.raises(FileNotFoundError, match="there are images of 2 of 3 prompts"):
        scorer_of(asked, pipe).score(further)

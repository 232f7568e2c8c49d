"""Quality: guards, the metrics against figures worked out by hand, and the comparison with the baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuner.errors import Unavailable
from tuner.quality import panel, similarity
from tuner.quality.clip_score import ClipScorer
from tuner.quality.guards import LEAST_DEVIATION, InvalidPicture, check
from tuner.record import Reference, SpotCheck, Workload

SIDE = 32
SQUARE = Workload(prompts=("a", "b", "c"), seeds=(0, 1, 2), height=SIDE, width=SIDE)
WORKLOAD = Workload(
    prompts=("a large red circle", "a small blue square", "a green circle"), seeds=(0, 1, 2), height=SIDE, width=SIDE
)


def pictures(count: int = 3, seed: int = 0) -> Any:
    """Noise that PNG keeps exactly: whole 255ths."""
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.float32) / 255


def smooth(count: int = 3) -> Any:
    """Ramps, each of another slope."""
    ramp = np.linspace(0, 0.8, SIDE, dtype=np.float32)[None, :, None, None]
    slopes = np.linspace(0.3, 1, count, dtype=np.float32)[:, None, None, None]
    return np.broadcast_to(ramp * slopes, (count, SIDE, SIDE, 3)).copy()


# ---- guards ---------------------------------------------------------------------------------------------------------


def test_pictures_pass() -> None:
    check(pictures(), 3, SQUARE)
    check(smooth(), 3, SQUARE)
    check(pictures(1), 1, SQUARE)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_found(bad: float) -> None:
    drawn = pictures()
    drawn[2, 5, 6, 1] = bad
    with pytest.raises(InvalidPicture, match="picture 2 contains NaN or infinity"):
        check(drawn, 3, SQUARE)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_constant_picture_is_found(level: float) -> None:
    drawn = pictures()
    drawn[1] = level
    with pytest.raises(InvalidPicture, match="picture 1 is constant"):
        check(drawn, 3, SQUARE)


def test_a_picture_of_rounding_noise_is_constant() -> None:
    drawn = pictures()
    drawn[0] = 0.5 + (drawn[0] - 0.5) * LEAST_DEVIATION
    with pytest.raises(InvalidPicture, match="picture 0 is constant"):
        check(drawn, 3, SQUARE)


def test_pictures_that_are_all_alike_are_found_and_one_that_differs_is_enough() -> None:
    drawn = np.repeat(pictures(1), 3, axis=0)
    with pytest.raises(InvalidPicture, match="alike"):
        check(drawn, 3, SQUARE)
    drawn[2, 0, 0, 0] = 1 - drawn[2, 0, 0, 0] + 0.1
    check(drawn, 3, SQUARE)


@pytest.mark.parametrize("shape", [(2, SIDE, SIDE, 3), (3, SIDE, SIDE, 4), (3, 16, SIDE, 3), (3, 3, SIDE, SIDE), (3,)])
def test_another_shape_is_found(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidPicture, match=r"shape|pixels"):
        check(np.zeros(shape), 3, SQUARE)


# ---- PSNR and SSIM --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shift", "expected"), [(0.1, 20.0), (0.01, 40.0), (0.05, 26.0206), (-0.1, 20.0)])
def test_psnr_of_a_shift_is_its_decibels(shift: float, expected: float) -> None:
    reference = smooth() * 0.5 + 0.2
    psnr, _ = similarity.psnr_and_ssim(reference + shift, reference)
    assert psnr == pytest.approx([expected] * 3, abs=0.01)


def test_psnr_is_of_each_picture_and_has_a_ceiling() -> None:
    reference = pictures()
    changed = reference.copy()
    changed[1] = np.clip(changed[1] + 0.2, 0, 1)
    psnr, ssim = similarity.psnr_and_ssim(changed, reference)
    assert psnr[0] == psnr[2] == similarity.HIGHEST_PSNR_DB
    assert psnr[1] < 20
    assert ssim[0] == ssim[2] == pytest.approx(1.0)
    assert ssim[1] < 0.99


def test_ssim_of_flat_pictures_is_the_luminance_term() -> None:
    # Without contrast SSIM is (2ab + c1) / (a2 + b2 + c1) with c1 = (0.01)2 (Wang et al. 2004, data range 1).
    dark, light = np.full((1, SIDE, SIDE, 3), 0.2), np.full((1, SIDE, SIDE, 3), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert similarity.psnr_and_ssim(dark, light)[1] == pytest.approx([expected], abs=1e-4)


def test_ssim_of_an_inverted_picture_is_negative_and_of_other_noise_near_zero() -> None:
    drawn = pictures()
    assert max(similarity.psnr_and_ssim(1 - drawn, drawn)[1]) < -0.5
    assert max(map(abs, similarity.psnr_and_ssim(pictures(seed=1), drawn)[1])) < 0.1


def test_saved_pictures_come_back_in_their_order(tmp_path: Path) -> None:
    drawn = pictures(12)
    images = similarity.save(drawn, tmp_path / "new" / "images")
    assert [image.size for image in images] == [(SIDE, SIDE)] * 12
    assert np.abs(similarity.load(str(tmp_path / "new" / "images"), range(12)) - drawn).max() < 1e-6
    assert np.abs(similarity.load(str(tmp_path / "new" / "images"), [11, 3]) - drawn[[11, 3]]).max() < 1e-6


# ---- the paired difference ------------------------------------------------------------------------------------------


def test_the_interval_of_the_paired_difference_covers_the_truth() -> None:
    random = np.random.default_rng(0)
    covered, sets = 0, 60
    for _ in range(sets):
        baseline = random.normal(30, 5, size=16)
        scores = baseline + random.normal(-0.5, 1.0, size=16)
        estimate = panel.paired_difference(scores.tolist(), baseline.tolist())
        covered += estimate.low <= -0.5 <= estimate.high
        assert estimate.low <= estimate.value <= estimate.high
    # A bootstrap of 16 pairs covers about 92 %; 80 % is three standard errors below that.
    assert covered / sets >= 0.8


def test_pairing_takes_the_spread_between_prompts_out() -> None:
    baseline, gains = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0], [1, 1.1, 0.9] * 2
    estimate = panel.paired_difference([score + gain for score, gain in zip(baseline, gains, strict=True)], baseline)
    assert estimate.value == pytest.approx(1.0)
    assert estimate.high - estimate.low < 0.3
    assert panel.paired_difference(baseline, baseline).low == panel.paired_difference(baseline, baseline).high == 0.0


def test_the_interval_is_the_same_every_time() -> None:
    first = panel.paired_difference([1.0, 2.0, 4.0, 3.0], [1.5, 1.0, 4.5, 1.0])
    assert first == panel.paired_difference([1.0, 2.0, 4.0, 3.0], [1.5, 1.0, 4.5, 1.0])


# ---- the spot check -------------------------------------------------------------------------------------------------


@pytest.fixture
def known(tmp_path: Path) -> SpotCheck:
    similarity.save(pictures(), tmp_path / "known")
    return SpotCheck(images=str(tmp_path / "known"))


def test_the_spot_check_says_same_up_to_rounding(known: SpotCheck) -> None:
    drawn = pictures()[:2]
    assert panel.same_pictures(drawn, known, WORKLOAD)
    assert panel.same_pictures(np.clip(drawn + 1 / 255, 0, 1), known, WORKLOAD)


def test_the_spot_check_says_different_when_one_picture_is(known: SpotCheck) -> None:
    drawn = pictures()[:2]
    drawn[1] = pictures(seed=9)[1]
    assert not panel.same_pictures(drawn, known, WORKLOAD)
    assert not panel.same_pictures(pictures()[[1, 0]], known, WORKLOAD)


def test_the_spot_check_has_guards(known: SpotCheck) -> None:
    with pytest.raises(InvalidPicture, match="NaN"):
        panel.same_pictures(np.full((2, SIDE, SIDE, 3), np.nan), known, WORKLOAD)


# ---- the panel, with a CLIP model of random weights -----------------------------------------------------------------


@pytest.fixture(scope="module")
def scorer(tiny_scorer: Path) -> ClipScorer:
    return ClipScorer(str(tiny_scorer), "cpu")


def test_a_score_is_100_times_the_cosine_and_independent_of_its_neighbours(scorer: ClipScorer) -> None:
    from PIL import Image

    images = [Image.fromarray((picture * 255).astype(np.uint8)) for picture in pictures()]
    together = scorer.scores(images, WORKLOAD.prompts)
    alone = [scorer.scores([image], [prompt])[0] for image, prompt in zip(images, WORKLOAD.prompts, strict=True)]
    assert together == pytest.approx(alone, abs=1e-3)
    assert all(-100 <= score <= 100 for score in together)
    assert len(set(together)) == 3


def test_the_panel_scores_saves_and_compares_prompt_by_prompt(scorer: ClipScorer, tmp_path: Path) -> None:
    baseline = panel.judge(pictures(), WORKLOAD, None, scorer, tmp_path / "baseline")
    assert baseline.difference.low == baseline.difference.high == 0.0
    assert baseline.mean == pytest.approx(sum(baseline.scores) / 3)
    reference = Reference(images=str(tmp_path / "baseline"), scores=baseline.scores)

    same = panel.judge(pictures(), WORKLOAD, reference, scorer, tmp_path / "same")
    assert same.scores == pytest.approx(baseline.scores)
    assert same.psnr_db is not None
    assert same.psnr_db > 90
    assert same.ssim == pytest.approx(1.0)
    assert same.difference.value == pytest.approx(0.0, abs=1e-4)

    other = panel.judge(pictures(seed=5), WORKLOAD, reference, scorer, tmp_path / "other")
    assert other.psnr_db is not None
    assert other.psnr_db < 12
    assert other.difference.value == pytest.approx(other.mean - baseline.mean, abs=1e-4)
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["0000.png", "0001.png", "0002.png"]


def test_the_panel_scores_no_broken_pictures(scorer: ClipScorer, tmp_path: Path) -> None:
    with pytest.raises(InvalidPicture):
        panel.judge(np.zeros((3, SIDE, SIDE, 3)), WORKLOAD, None, scorer, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_scorer_that_is_none_is_unavailable_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Unavailable) as refusal:
        ClipScorer(str(tmp_path), "cpu")
    assert "--scorer" in str(refusal.value)
    assert "\n" not in str(refusal.value)

"""Quality: guards, the metrics against figures worked out by hand, and the comparison with the baseline."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuner.errors import Unavailable
from tuner.quality import panel, similarity
from tuner.quality.clip import Clip
from tuner.quality.guards import MIN_DEVIATION, InvalidImage, check
from tuner.quality.images import Images
from tuner.quality.metrics import Metric, MetricContext
from tuner.quality.statistics import paired_difference
from tuner.records.model import Workload
from tuner.records.quality import Reference, SpotCheck

SIDE = 32
SQUARE = Workload(prompts=("a", "b", "c"), seeds=(0, 1, 2), height=SIDE, width=SIDE)
WORKLOAD = Workload(
    prompts=("a large red circle", "a small blue square", "a green circle"), seeds=(0, 1, 2), height=SIDE, width=SIDE
)


def images(count: int = 3, seed: int = 0) -> Any:
    """Noise that PNG keeps exactly: whole 255ths."""
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.float32) / 255


def smooth(count: int = 3) -> Any:
    """Ramps, each of another slope."""
    ramp = np.linspace(0, 0.8, SIDE, dtype=np.float32)[None, :, None, None]
    slopes = np.linspace(0.3, 1, count, dtype=np.float32)[:, None, None, None]
    return np.broadcast_to(ramp * slopes, (count, SIDE, SIDE, 3)).copy()


# ---- guards ---------------------------------------------------------------------------------------------------------


def test_images_pass() -> None:
    check(images(), 3, SQUARE)
    check(smooth(), 3, SQUARE)
    check(images(1), 1, SQUARE)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_found(bad: float) -> None:
    drawn = images()
    drawn[2, 5, 6, 1] = bad
    with pytest.raises(InvalidImage, match="image 2 contains NaN or infinity"):
        check(drawn, 3, SQUARE)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_constant_image_is_found(level: float) -> None:
    drawn = images()
    drawn[1] = level
    with pytest.raises(InvalidImage, match="image 1 is black" if level == 0 else "image 1 is constant"):
        check(drawn, 3, SQUARE)


def test_an_image_of_rounding_noise_is_constant() -> None:
    drawn = images()
    drawn[0] = 0.5 + (drawn[0] - 0.5) * MIN_DEVIATION
    with pytest.raises(InvalidImage, match="image 0 is constant"):
        check(drawn, 3, SQUARE)


def test_images_that_are_alike_are_found_all_or_two_of_them() -> None:
    drawn = np.repeat(images(1), 3, axis=0)
    with pytest.raises(InvalidImage, match="all images are alike"):
        check(drawn, 3, SQUARE)
    drawn[1] = images(seed=1)[0]
    with pytest.raises(InvalidImage, match="images 0 and 2 are the same"):
        check(drawn, 3, SQUARE)
    drawn[2, 0, 0, 0] = 1 - drawn[2, 0, 0, 0] + 0.1
    check(drawn, 3, SQUARE)


def test_the_same_image_for_the_same_prompt_and_seed_is_right() -> None:
    drawn = images(3)
    drawn[2] = drawn[0]
    check(drawn, 3, Workload(prompts=("a", "b", "a"), seeds=(0, 1, 0), height=SIDE, width=SIDE))
    with pytest.raises(InvalidImage, match="images 0 and 2"):
        check(drawn, 3, Workload(prompts=("a", "b", "a"), seeds=(0, 1, 2), height=SIDE, width=SIDE))


@pytest.mark.parametrize("shape", [(2, SIDE, SIDE, 3), (3, SIDE, SIDE, 4), (3, 16, SIDE, 3), (3, 3, SIDE, SIDE), (3,)])
def test_another_shape_is_found(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidImage, match=r"shape|pixels"):
        check(np.zeros(shape), 3, SQUARE)


# ---- PSNR and SSIM --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shift", "expected"), [(0.1, 20.0), (0.01, 40.0), (0.05, 26.0206), (-0.1, 20.0)])
def test_psnr_of_a_shift_is_its_decibels(shift: float, expected: float) -> None:
    reference = smooth() * 0.5 + 0.2
    psnr, _ = similarity.psnr_and_ssim(reference + shift, reference)
    assert psnr == pytest.approx([expected] * 3, abs=0.01)


def test_psnr_is_of_each_image_and_has_a_ceiling() -> None:
    reference = images()
    changed = reference.copy()
    changed[1] = np.clip(changed[1] + 0.2, 0, 1)
    psnr, ssim = similarity.psnr_and_ssim(changed, reference)
    assert psnr[0] == psnr[2] == similarity.MAX_PSNR_DB
    assert psnr[1] < 20
    assert ssim[0] == ssim[2] == pytest.approx(1.0)
    assert ssim[1] < 0.99


def test_ssim_of_flat_images_is_the_luminance_term() -> None:
    # Without contrast SSIM is (2ab + c1) / (a2 + b2 + c1) with c1 = (0.01)2 (Wang et al. 2004, data range 1).
    dark, light = np.full((1, SIDE, SIDE, 3), 0.2), np.full((1, SIDE, SIDE, 3), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert similarity.psnr_and_ssim(dark, light)[1] == pytest.approx([expected], abs=1e-4)


def test_ssim_of_an_inverted_image_is_negative_and_of_other_noise_near_zero() -> None:
    drawn = images()
    assert max(similarity.psnr_and_ssim(1 - drawn, drawn)[1]) < -0.5
    assert max(map(abs, similarity.psnr_and_ssim(images(seed=1), drawn)[1])) < 0.1


def test_saved_images_come_back_in_their_order(tmp_path: Path) -> None:
    drawn, prompts = images(12), [str(index) for index in range(12)]
    Images.from_pipeline(drawn, prompts).save(tmp_path / "new" / "images")
    assert np.abs(Images.load(tmp_path / "new" / "images", prompts).stills - drawn).max() < 1e-6
    first = Images.load(tmp_path / "new" / "images", prompts, count=3)
    assert first.prompts == ("0", "1", "2")
    assert np.abs(first.stills - drawn[:3]).max() < 1e-6


# ---- the paired difference ------------------------------------------------------------------------------------------


def test_the_interval_of_the_paired_difference_covers_the_truth() -> None:
    random = np.random.default_rng(0)
    covered, sets = 0, 60
    for _ in range(sets):
        baseline = random.normal(30, 5, size=16)
        scores = baseline + random.normal(-0.5, 1.0, size=16)
        estimate = paired_difference(scores.tolist(), baseline.tolist())
        covered += estimate.low <= -0.5 <= estimate.high
        assert estimate.low <= estimate.value <= estimate.high
    # 95 % of 60; 88 % is two and a half standard errors below that.
    assert covered / sets >= 0.88


def test_pairing_takes_the_spread_between_prompts_out() -> None:
    baseline, gains = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0], [1, 1.1, 0.9] * 2
    estimate = paired_difference([score + gain for score, gain in zip(baseline, gains, strict=True)], baseline)
    assert estimate.value == pytest.approx(1.0)
    assert estimate.high - estimate.low < 0.3
    assert paired_difference(baseline, baseline).low == paired_difference(baseline, baseline).high == 0.0


def test_the_interval_is_the_same_every_time() -> None:
    first = paired_difference([1.0, 2.0, 4.0, 3.0], [1.5, 1.0, 4.5, 1.0])
    assert first == paired_difference([1.0, 2.0, 4.0, 3.0], [1.5, 1.0, 4.5, 1.0])


# ---- the spot check -------------------------------------------------------------------------------------------------


@pytest.fixture
def known(tmp_path: Path) -> SpotCheck:
    Images.from_pipeline(images(), WORKLOAD.prompts).save(tmp_path / "known")
    return SpotCheck(images=str(tmp_path / "known"))


def test_the_spot_check_says_same_up_to_rounding(known: SpotCheck) -> None:
    drawn = images()[:2]
    assert panel.same_images(drawn, known, WORKLOAD)
    assert panel.same_images(np.clip(drawn + 1 / 255, 0, 1), known, WORKLOAD)


def test_the_spot_check_says_different_when_one_image_is(known: SpotCheck) -> None:
    drawn = images()[:2]
    drawn[1] = images(seed=9)[1]
    assert not panel.same_images(drawn, known, WORKLOAD)
    assert not panel.same_images(images()[[1, 0]], known, WORKLOAD)


def test_the_spot_check_has_guards(known: SpotCheck) -> None:
    with pytest.raises(InvalidImage, match="NaN"):
        panel.same_images(np.full((2, SIDE, SIDE, 3), np.nan), known, WORKLOAD)


# ---- the panel, with a CLIP model of random weights -----------------------------------------------------------------


@pytest.fixture(scope="module")
def context(tiny_scorer: Path) -> MetricContext:
    return MetricContext("cpu", str(tiny_scorer), {})


def judge(context: MetricContext, metric: str = "clip_score") -> panel.Judge:
    return panel.Judge(metric, context, WORKLOAD)


def test_a_score_is_100_times_the_cosine_and_independent_of_its_neighbours(context: MetricContext) -> None:
    def scores(drawn: Any, prompts: tuple[str, ...]) -> tuple[float, ...]:
        return panel.objective_scores(judge(context).metric, Images.from_pipeline(drawn, prompts), None, context)

    together = scores(images(), WORKLOAD.prompts)
    alone = [scores(images()[index : index + 1], (prompt,))[0] for index, prompt in enumerate(WORKLOAD.prompts)]
    assert together == pytest.approx(alone, abs=1e-3)
    assert all(-100 <= score <= 100 for score in together)
    assert len(set(together)) == 3


def test_the_panel_scores_saves_and_compares_prompt_by_prompt(context: MetricContext, tmp_path: Path) -> None:
    baseline = judge(context).judge(images(), None, tmp_path / "baseline")
    assert baseline.difference.low == baseline.difference.high == 0.0
    assert baseline.mean == pytest.approx(sum(baseline.scores) / 3)
    reference = Reference(images=str(tmp_path / "baseline"), scores=baseline.scores, floor=0.01)

    same = judge(context).judge(images(), reference, tmp_path / "same")
    assert same.scores == pytest.approx(baseline.scores)
    assert same.psnr_db is not None
    assert same.psnr_db > 90
    assert same.ssim == pytest.approx(1.0)
    assert same.difference.value == pytest.approx(0.0, abs=1e-4)
    assert same.flags == ()

    other = judge(context).judge(images(seed=5), reference, tmp_path / "other")
    assert other.psnr_db is not None
    assert other.psnr_db < 12
    assert other.difference.value == pytest.approx(other.mean - baseline.mean, abs=1e-4)
    pngs = [path.name for path in (tmp_path / "other").glob("*.png")]
    assert sorted(pngs) == ["0000.png", "0001.png", "0002.png"]


def with_reference(context: MetricContext, folder: Path) -> Reference:
    baseline = judge(context).judge(images(), None, folder / "baseline")
    return Reference(images=str(folder / "baseline"), scores=baseline.scores)


def test_images_that_are_judged_some_after_the_others_have_the_verdict_of_all_at_once(
    context: MetricContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, drawn, looked_at = with_reference(context, tmp_path), images(seed=5), list[int]()
    at_once = judge(context).judge(drawn, reference, tmp_path / "once")
    scores = panel.objective_scores

    def counted(metric: Metric, these: Images, *more: Any) -> tuple[float, ...]:
        looked_at.append(len(these.stills))
        return scores(metric, these, *more)

    monkeypatch.setattr(panel, "objective_scores", counted)
    judging = judge(context).begin(reference, tmp_path / "parts")
    assert len(judging.add(drawn[:1], 1).scores) == 1
    parts = judging.add(drawn[1:], 3)
    assert looked_at == [1, 2], "each image once"
    assert parts.scores == pytest.approx(at_once.scores, abs=1e-4)
    assert (parts.psnr_db, parts.ssim) == (pytest.approx(at_once.psnr_db), pytest.approx(at_once.ssim))
    assert parts.difference.low == pytest.approx(at_once.difference.low, abs=1e-4)
    kept = Images.load(tmp_path / "parts", WORKLOAD.prompts)
    assert np.array_equal(kept.stills, Images.from_pipeline(drawn, WORKLOAD.prompts).stills)
    assert len(kept.features[context.scorer]) == 3


def test_an_image_that_comes_later_must_differ_from_the_earlier_ones(context: MetricContext, tmp_path: Path) -> None:
    drawn = images(seed=5)
    judging = judge(context).begin(with_reference(context, tmp_path), tmp_path / "own")
    judging.add(drawn[:2], 2)
    with pytest.raises(InvalidImage, match="images 0 and 2 are the same"):
        judging.add(drawn[:1], 3)


def test_the_first_prompts_of_a_reference_can_be_judged_alone(context: MetricContext, tmp_path: Path) -> None:
    """`tune verify` generates few images of the untouched pipeline."""
    reference = with_reference(context, tmp_path)
    few = panel.Judge("clip_score", context, WORKLOAD.first(2))
    same = few.judge(images()[:2], reference, tmp_path / "own")
    assert same.psnr_db is not None and same.psnr_db > 90
    assert same.difference.value == pytest.approx(0.0, abs=1e-4)


def test_a_reference_that_lacks_an_image_is_an_error(context: MetricContext, tmp_path: Path) -> None:
    reference = with_reference(context, tmp_path)
    (tmp_path / "baseline" / "0002.png").unlink()
    with pytest.raises(FileNotFoundError, match="there are images of 2 of 3 prompts"):
        judge(context).judge(images(), reference, tmp_path / "own")


def test_what_was_embedded_once_is_read_back(context: MetricContext, tmp_path: Path) -> None:
    judge(context).judge(images(), None, tmp_path / "images")
    kept = Images.load(tmp_path / "images", WORKLOAD.prompts)
    fresh = Images.from_pipeline(images(), WORKLOAD.prompts)
    assert np.allclose(kept.features[context.scorer], context.clip.embed_images(fresh), atol=1e-5)


def test_an_axis_of_which_less_is_better_is_turned_round(
    context: MetricContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuner.quality.metrics import METRICS

    monkeypatch.setattr(type(METRICS["ssim"]), "higher_is_better", False)
    baseline = judge(context, "ssim").judge(images(), None, tmp_path / "baseline")
    assert baseline.scores == (-1.0, -1.0, -1.0)
    reference = Reference(images=str(tmp_path / "baseline"), scores=baseline.scores)
    other = judge(context, "ssim").judge(images(seed=5), reference, tmp_path / "other")
    assert other.difference.value == pytest.approx(1 - other.ssim if other.ssim is not None else None, abs=1e-4)


def test_images_that_are_suddenly_better_are_flagged(context: MetricContext, tmp_path: Path) -> None:
    baseline = judge(context).judge(images(), None, tmp_path / "baseline")
    lower = tuple(score - 5 for score in baseline.scores)
    better = Reference(images=str(tmp_path / "baseline"), scores=lower, floor=0.5)
    (flag,) = judge(context).judge(images(), better, tmp_path / "better").flags
    assert "better than the baseline" in flag
    within = Reference(images=str(tmp_path / "baseline"), scores=lower, floor=6.0)
    assert judge(context).judge(images(), within, tmp_path / "within").flags == ()


def test_the_panel_scores_no_broken_images(context: MetricContext, tmp_path: Path) -> None:
    with pytest.raises(InvalidImage):
        judge(context).judge(np.zeros((3, SIDE, SIDE, 3)), None, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_scorer_that_is_none_is_unavailable_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Unavailable) as refusal:
        Clip(str(tmp_path), "cpu")
    assert "--scorer" in str(refusal.value)
    assert "ssim" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.alone
def test_the_demo_scorer_takes_64_images_in_two_seconds() -> None:
    from tuner.demo import SCORER_DIR
    from tuner.quality.metrics import METRICS

    context = MetricContext("cpu", str(SCORER_DIR), {})
    stills = np.random.default_rng(0).random((64, 64, 64, 3), np.float32)
    drawn = Images.from_pipeline(stills, [f"a large red circle above {index} squares" for index in range(64)])
    warm = drawn.first(2)
    METRICS["clip_score"].scores(warm, warm, context)
    began = time.monotonic()
    assert len(METRICS["clip_score"].scores(drawn, drawn, context)) == 64
    assert time.monotonic() - began < 2


# ---- images of fewer prompts than the workload has ----------------------------------------------------------------


def test_the_spot_check_knows_videos_that_were_scored_on_some_prompts_only(tmp_path: Path) -> None:
    many = Workload(prompts=tuple(map(str, range(6))), seeds=tuple(range(6)), height=SIDE, width=SIDE)
    videos = np.random.default_rng(0).random((3, 9, SIDE, SIDE, 3), np.float32)
    Images.from_pipeline(videos, many.prompts[:3]).save(tmp_path / "early")
    early = SpotCheck(images=str(tmp_path / "early"))
    assert panel.same_images(videos[:2], early, many)
    assert not panel.same_images(videos[1:], early, many)
    Images.from_pipeline(videos[:1], many.prompts[:1]).save(tmp_path / "one")
    assert panel.same_images(videos[:2], SpotCheck(images=str(tmp_path / "one")), many)


def test_a_folder_that_is_not_whole_is_refused_where_all_prompts_are_wanted(tmp_path: Path) -> None:
    Images.from_pipeline(images()[:2], WORKLOAD.prompts[:2]).save(tmp_path)
    with pytest.raises(FileNotFoundError, match="2 stills do not fit 3 prompts"):
        Images.load(tmp_path, WORKLOAD.prompts)
    assert len(Images.load(tmp_path, WORKLOAD.prompts, stills_per_prompt=1).prompts) == 2
    with pytest.raises(FileNotFoundError, match="no images"):
        Images.load(tmp_path / "nowhere", WORKLOAD.prompts, stills_per_prompt=1)


# ---- a CLIP model that is not whole ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "said"),
    [("missing", r"1 weights are missing: visual_projection\.weight"), ("shape", "mismatch"), ("file", "cannot be")],
)
def test_a_scorer_whose_weights_are_not_whole_is_unavailable(
    damage: str, said: str, tiny_scorer: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "clip"
    shutil.copytree(tiny_scorer, folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    if damage == "missing":
        del weights["visual_projection.weight"]
    else:
        weights["visual_projection.weight"] = weights["visual_projection.weight"][:, :-1].copy()
    save_file(weights, file, {"format": "pt"})
    if damage == "file":
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(Unavailable, match=said) as refusal:
        Clip(str(folder), "cpu")
    assert str(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)

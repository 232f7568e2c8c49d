"""The contract that every metric keeps, and the arithmetic of some against figures worked out by hand."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuner.errors import BadInput, Unavailable
from tuner.quality import panel
from tuner.quality.images import Images, select_frames, to_stills
from tuner.quality.metrics import METRICS, OBJECTIVES, CustomMetric, Metric, MetricContext, get_metric, get_objective
from tuner.quality.metrics.distribution import frechet, mmd
from tuner.quality.metrics.fidelity import scale_weights

PROMPTS = ("a red circle", "a blue square", "a green cross", "a small yellow circle", "a cross", "a large circle")
SIDE = 48


def images(seed: int = 0, frames: int = 1, blur: float = 0.0) -> Images:
    """Smooth random images, so that each metric has something to see."""
    random = np.random.default_rng(seed)
    coarse = random.random((len(PROMPTS), frames, 6, 6, 3))
    stills = coarse.repeat(SIDE // 6, 2).repeat(SIDE // 6, 3).reshape(-1, SIDE, SIDE, 3)
    mixed = (1 - blur) * stills + blur * stills.mean((1, 2), keepdims=True)
    return Images((mixed * 255).round().astype(np.float32) / 255, PROMPTS, frames)


@pytest.fixture(scope="module")
def context(tiny_scorer: Path) -> MetricContext:
    return MetricContext("cpu", str(tiny_scorer), {"preference": str(tiny_scorer)})


every = pytest.mark.parametrize("name", list(METRICS))


# ---- the contract ---------------------------------------------------------------------------------------------------


@every
def test_a_metric_says_what_it_is(name: str) -> None:
    found = METRICS[name]
    assert found.name == name
    assert found.__doc__
    assert all((found.title, found.unit, found.needs, found.cost))
    assert found.tolerance is None or found.tolerance > 0
    assert (found.tolerance is not None) == (name in OBJECTIVES)


@every
def test_a_metric_measures_or_says_why_it_cannot(name: str, context: MetricContext) -> None:
    found, ours, baseline = METRICS[name], images(blur=0.3), images()
    reason = found.skip_reason(context, ours)
    if reason:
        assert len(reason.splitlines()) == 1
        assert any(word in reason for word in ("pip install", "--metric", "no frames", "too few")), reason
        return
    value, difference, better = panel.compare(found, ours, baseline, context)
    for estimate in filter(None, (value, difference, better)):
        assert estimate.low <= estimate.value <= estimate.high
        assert all(map(math.isfinite, (estimate.low, estimate.value, estimate.high)))
    if found.distance(ours, baseline, context) is None:
        scores = found.scores(ours, baseline, context)
        assert len(scores) == len(PROMPTS)
        assert scores == found.scores(images(blur=0.3), images(), context)


@every
def test_the_baseline_scores_what_a_metric_says_it_does(name: str, context: MetricContext) -> None:
    found, baseline = METRICS[name], images()
    if reason := found.skip_reason(context, baseline):
        pytest.skip(reason)
    if found.identity_score is not None:
        assert found.scores(baseline, images(), context) == pytest.approx([found.identity_score] * 6, abs=1e-3)
    distance = found.distance(baseline, images(), context)
    if distance is not None:
        assert distance.value == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", [name for name, found in METRICS.items() if found.compared_with == "baseline"])
def test_more_damage_is_worse(name: str, context: MetricContext) -> None:
    found, baseline = METRICS[name], images()
    if reason := found.skip_reason(context, baseline):
        pytest.skip(reason)
    better = [panel.compare(found, images(blur=blur), baseline, context)[2].value for blur in (0.0, 0.2, 0.8)]
    assert better[0] >= better[1] >= better[2]
    assert better[0] > better[2]


@every
def test_a_metric_of_a_video_has_a_value_for_each_prompt(name: str, context: MetricContext) -> None:
    found, video = METRICS[name], images(frames=8)
    if reason := found.skip_reason(context, video):
        pytest.skip(reason)
    if found.distance(video, images(1, frames=8), context) is None:
        assert len(found.scores(video, images(1, frames=8), context)) == len(PROMPTS)


def test_without_its_weights_a_metric_as_axis_says_which_and_what_works_without() -> None:
    bare = MetricContext("cpu", "nowhere", {})
    with pytest.raises(Unavailable, match=r"--quality preference: .*--metric preference=PATH.*ssim.*need no weights"):
        panel.objective_scores(METRICS["preference"], images(), images(1), bare)
    with pytest.raises(Unavailable, match=r"nowhere.*--scorer.*ssim"):
        panel.objective_scores(METRICS["clip_score"], images(), None, MetricContext("cpu", "/nowhere", {}))


# ---- which metric ---------------------------------------------------------------------------------------------------


def test_a_metric_that_is_none_is_named_with_those_that_are() -> None:
    with pytest.raises(BadInput, match="did you mean clip_score"):
        get_metric("clip_scor")
    with pytest.raises(BadInput, match="your own module:function"):
        get_metric("beauty")
    for name in ("psnr", "cmmd"):
        with pytest.raises(BadInput, match="cannot be the objective"):
            get_objective(name)


def brightness(images: list[Any], prompts: list[str]) -> list[float]:
    assert len(images) == len(prompts)
    return [float(np.asarray(image).mean()) for image in images]


def too_few(images: list[Any], _: list[str]) -> list[float]:
    return [1.0] * (len(images) - 1)


def test_a_users_own_metric_is_called_with_images_and_prompts(
    context: MetricContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "their_metrics", sys.modules[__name__])
    own = get_objective("their_metrics:brightness")
    assert isinstance(own, CustomMetric)
    ours = images()
    assert own.scores(ours, ours, context) == pytest.approx(ours.stills.mean((1, 2, 3)) * 255, abs=0.01)
    for name, said in (("their_metrics:too_few", "one finite number for each of the 6"), ("nowhere:f", "imported"),
                        ("their_metrics:PROMPTS", "not a function"), ("their_metrics:none", "imported")):  # fmt: skip
        with pytest.raises(BadInput, match=said):
            get_metric(name).scores(ours, ours, context)


# ---- arithmetic -----------------------------------------------------------------------------------------------------


def test_unbiased_mmd_is_zero_on_average_for_one_distribution_and_grows_with_distance() -> None:
    random = np.random.default_rng(0)
    same = [mmd(random.normal(size=(24, 16)), random.normal(size=(24, 16))).value for _ in range(40)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 40**0.5
    ours = random.normal(size=(24, 16))
    near, far = (mmd(ours + shift, random.normal(size=(30, 16))).value for shift in (1.0, 3.0))
    assert 0 < near < far


def test_mmd_of_three_points_each_by_hand() -> None:
    ours, theirs = np.array([[0.0], [10.0], [20.0]]), np.array([[0.0], [10.0], [30.0]])
    k0, k10, k20, k30 = (math.exp(-(distance**2) / 200) for distance in (0, 10, 20, 30))
    within_ours, within_theirs = (k10 + k20 + k10) / 3, (k10 + k30 + k20) / 3
    row_by_row = [k0 + k10 + k30, k10 + k0 + k20, k20 + k10 + k10]
    assert mmd(ours, theirs).value == pytest.approx(1000 * (within_ours + within_theirs - 2 * sum(row_by_row) / 9))
    # Paired: row i of one is not compared with row i of the other.
    others = sum(row_by_row) - (k0 + k0 + k10)
    paired = mmd(ours, theirs, paired=True)
    assert paired.value == pytest.approx(1000 * (within_ours + within_theirs - 2 * others / 6))
    assert paired.low <= paired.value <= paired.high


def test_the_frechet_distance_of_shifted_and_stretched_points() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 8))
    assert frechet(rows, rows) == pytest.approx(0.0, abs=1e-9)
    assert frechet(rows + 2, rows) == pytest.approx(8 * 4)
    # Equal means and the covariance four times as large: the trace of it, once.
    centred = rows - rows.mean(0)
    assert frechet(2 * centred, centred) == pytest.approx(float(np.cov(rows.T).trace()))


def test_small_images_have_fewer_scales() -> None:
    assert scale_weights(1024) == pytest.approx((0.0448, 0.2856, 0.3001, 0.2363, 0.1333), abs=1e-3)
    assert [len(scale_weights(side)) for side in (22, 44, 64, 88, 176, 512)] == [2, 3, 3, 4, 5, 5]
    assert sum(scale_weights(64)) == pytest.approx(1.0)


def test_temporal_consistency_sees_flicker(context: MetricContext) -> None:
    calm, flicker = images(frames=8), images(frames=8)
    by_frame = calm.stills.reshape(6, 8, SIDE, SIDE, 3)
    by_frame[:, 1::2] = by_frame[:, ::2]
    found: Metric = METRICS["temporal_consistency"]
    assert found.scores(calm, calm, context) == pytest.approx([100.0] * 6, abs=1e-3)
    assert max(found.scores(flicker, flicker, context)) < 99.99


@pytest.mark.parametrize(("frames", "each"), [(1, 1), (2, 2), (3, 3), (5, 5), (8, 8), (81, 8)])
def test_of_a_video_pairs_of_neighbouring_frames_are_judged(frames: int, each: int) -> None:
    video = np.arange(frames, dtype=np.float32)[None, :, None, None, None] * np.ones((2, 1, 4, 4, 3), np.float32)
    stills = to_stills(video)
    assert len(stills) == 2 * each
    chosen = stills[:each, 0, 0, 0]
    assert chosen[0] == 0
    assert chosen[-1] == frames - 1
    assert frames < 8 or set(np.diff(chosen)[::2]) == {1.0}
    assert (to_stills(select_frames(video)) == stills).all(), "the same whether the rest was dropped before or not"

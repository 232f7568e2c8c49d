"""Guards that compare with the baseline: what each finds, and that what is only worse passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tuner.quality.guards import InvalidImage, check, check_prompts, check_seeds, likeness, margins
from tuner.quality.images import Images
from tuner.records.model import Workload

SIDE, COUNT = 32, 12
WORKLOAD = Workload(prompts=tuple("abcdefghijkl"), seeds=tuple(range(COUNT)), height=SIDE, width=SIDE)


def scenes(seed: int = 0) -> Any:
    """Images with a layout: random patches, enlarged."""
    coarse = np.random.default_rng(seed).random((COUNT, 4, 4, 3), np.float32)
    return coarse.repeat(8, 1).repeat(8, 2)


def softened(stills: Any, share: float = 0.5) -> Any:
    return (1 - share) * stills + share * stills.mean((1, 2), keepdims=True)


def test_noise_is_found_beside_a_baseline_that_is_none() -> None:
    noisy = scenes()
    noisy[5] = np.random.default_rng(1).random((SIDE, SIDE, 3))
    check(noisy, COUNT, WORKLOAD)
    with pytest.raises(InvalidImage, match="image 5 is noise"):
        check(noisy, COUNT, WORKLOAD, scenes())
    every = np.random.default_rng(2).random((COUNT, SIDE, SIDE, 3))
    check(every[::-1], COUNT, WORKLOAD, every)


def test_saturated_images_are_found_and_a_drawing_in_black_and_white_is_none() -> None:
    drawing = (scenes() > 0.5).astype(np.float32)
    with pytest.raises(InvalidImage, match="saturated"):
        check(drawing, COUNT, WORKLOAD, scenes())
    check(drawing, COUNT, WORKLOAD, drawing)


def test_images_from_other_seeds_are_found_even_when_only_every_other_is() -> None:
    baseline, others = scenes(), scenes(1)
    check_seeds(baseline, baseline, others[:6])
    check_seeds(softened(baseline), baseline, others[:6])
    check_seeds(np.clip(baseline + 0.05 * scenes(3), 0, 1), baseline, others[:6])
    with pytest.raises(InvalidImage, match="ignore their seeds"):
        check_seeds(scenes(2), baseline, others[:6])
    half = baseline.copy()
    half[::2] = scenes(2)[::2]
    with pytest.raises(InvalidImage, match="ignore their seeds"):
        check_seeds(half, baseline, others[:6])


def test_where_a_seed_changes_hardly_anything_the_guard_is_silent() -> None:
    baseline = scenes()
    check_seeds(baseline + 0.01 * scenes(1), baseline, baseline + 0.01 * scenes(2))


def test_likeness_is_of_the_layout_not_of_the_ground() -> None:
    baseline = scenes()
    assert likeness(baseline, baseline) == pytest.approx(np.ones(COUNT))
    assert likeness(0.5 * baseline + 0.3, baseline) == pytest.approx(np.ones(COUNT), abs=1e-5)
    assert likeness(1 - baseline, baseline) == pytest.approx(-np.ones(COUNT), abs=1e-5)
    assert (likeness(np.full_like(baseline, 0.5), baseline) == 1).all()


def test_images_that_ignore_their_prompts_are_found() -> None:
    random = np.random.default_rng(0)
    prompts = np.eye(COUNT, 16)
    seen = prompts + 0.1 * random.normal(size=prompts.shape)
    good = margins(seen, prompts)
    assert min(good) > 50
    check_prompts(good, good)
    check_prompts(margins(0.5 * seen, prompts), good)
    with pytest.raises(InvalidImage, match="ignore their prompts"):
        check_prompts(margins(np.roll(seen, 1, axis=0), prompts), good)


def test_a_baseline_that_ignores_its_prompts_itself_accuses_nobody() -> None:
    nothing = list(np.random.default_rng(0).normal(size=COUNT))
    check_prompts([-value for value in nothing], nothing)


@pytest.mark.parametrize("odd", ["white", "noise", "drawing"])
def test_one_odd_image_of_the_baseline_rejects_no_candidate(odd: str) -> None:
    baseline = scenes()
    baseline[6] = {
        "white": np.where(np.arange(SIDE)[:, None, None] < 30, 1.0, baseline[6]),
        "noise": np.random.default_rng(1).random((SIDE, SIDE, 3)),
        "drawing": baseline[6] > 0.5,
    }[odd]
    check(baseline, COUNT, WORKLOAD, baseline=baseline)
    check(softened(baseline, 0.01), COUNT, WORKLOAD, baseline=baseline)
    elsewhere = np.roll(baseline, 1, axis=0)
    with pytest.raises(InvalidImage, match="image 7 is"):
        check(elsewhere, COUNT, WORKLOAD, baseline=baseline)


def test_images_on_either_side_of_the_limit_are_told_apart_only_when_they_differ() -> None:
    baseline, candidate = scenes(), scenes()
    baseline[3, : int(0.88 * SIDE)], candidate[3, : int(0.94 * SIDE)] = 1, 1
    check(candidate, COUNT, WORKLOAD, baseline=baseline)


def test_a_video_is_compared_with_its_own_counterpart() -> None:
    videos = scenes()[:, None].repeat(9, 1)
    white = videos.copy()
    white[6] = np.random.default_rng(1).random((9, SIDE, SIDE, 3))
    stills = Images.from_pipeline(white, WORKLOAD.prompts).stills
    check(white, COUNT, WORKLOAD, baseline=stills)
    check(white, COUNT, WORKLOAD, baseline=white)
    with pytest.raises(InvalidImage, match="image 6 is noise"):
        check(white, COUNT, WORKLOAD, baseline=Images.from_pipeline(videos, WORKLOAD.prompts).stills)

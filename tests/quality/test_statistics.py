"""Intervals of paired differences: how often they cover the truth, and the verdict beside the noise floor."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from resampling import coverage
from scipy import stats

from tuner.quality.statistics import jackknife, mean_of, verdict
from tuner.records.codec import Estimate

SCORES: dict[str, list[float]] = json.loads(
    (Path(__file__).parent.parent / "data" / "demo_clip_scores.json").read_text()
)["scores"]


@pytest.mark.parametrize(("few", "many"), list(itertools.combinations(SCORES, 2)))
def test_the_interval_of_a_difference_is_honest(few: str, many: str) -> None:
    assert 0.92 <= coverage(SCORES[few], SCORES[many], 64, seed=1) <= 0.98
    # The demo's own 24 prompts are few for scores of which some differ by far more than the rest.
    assert coverage(SCORES[few], SCORES[many], 24, seed=1) >= 0.88


def test_the_interval_covers_the_mean_of_normal_values_in_95_of_100() -> None:
    random = np.random.default_rng(0)
    covered = [e.low <= 0 <= e.high for e in (mean_of(random.normal(size=20).tolist()) for _ in range(400))]
    assert 0.93 <= np.mean(covered) <= 0.985


def test_a_single_value_says_nothing_and_equal_values_say_all() -> None:
    assert mean_of([3.0]) == Estimate(value=3.0, low=-197.0, high=203.0)
    assert mean_of([2.5] * 7) == Estimate(value=2.5, low=2.5, high=2.5)
    assert mean_of([0.0] * 23 + [1.0]).high > 0.1


@pytest.mark.parametrize("count", [4, 24, 128])
def test_one_value_that_makes_the_difference_does_not_blow_the_interval_up(count: int) -> None:
    """Rounding tips one image of some hundred over. On an H200 one of 128 lost 15 points."""
    values = np.append(np.random.default_rng(0).normal(0, 0.1, count - 1), -15.0)
    interval = mean_of(values.tolist())
    student = stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / count**0.5
    assert interval.value - interval.low <= 2.001 * student
    assert interval.high - interval.value >= 0.999 * student


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=50)
    without = [(values.sum() - value) / 49 for value in values]
    estimate = jackknife(float(values.mean()), without)
    assert estimate.high - estimate.value == pytest.approx(1.96 * values.std(ddof=1) / 50**0.5)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-0.1, 0.1, "same"), (-1.0, 1.0, "same"), (1.1, 2.0, "better"), (-2.0, -1.1, "worse"), (-2.0, 0.0, "in doubt"),
     (0.5, 3.0, "in doubt")],
)  # fmt: skip
def test_the_verdict_is_two_sided(low: float, high: float, said: str) -> None:
    assert verdict(Estimate(value=(low + high) / 2, low=low, high=high), floor=1.0) == said

"""Judging in a race: repeated looks decide wrongly no more often than one look would, and seldom need all images."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tuner.quality import race, statistics
from tuner.records.codec import Estimate

TOLERANCE = 1.0
COUNT = 64
RUNS = 400


def test_looks_double_in_whole_batches() -> None:
    assert list(race.looks(64, 1)) == [4, 8, 16, 32, 64]
    assert list(race.looks(20, 1)) == [4, 8, 16, 20]
    assert list(race.looks(64, 6)) == [6, 12, 24, 48, 64]
    assert list(race.looks(3, 1)) == [3]


@pytest.mark.parametrize(
    ("affordable", "is_slow", "prompts"),
    [(200.0, False, 72), (48.0, False, 32), (48.0, True, 16), (200.0, True, 32), (900.0, True, 72), (3.0, True, 4)],
)
def test_slow_calls_generate_little_more_at_once_than_a_verdict_needs(
    affordable: float, is_slow: bool, prompts: int
) -> None:
    assert race.reference_prompts(72, 1, affordable, is_slow=is_slow) == prompts


@pytest.mark.parametrize("batch", range(1, 17))
def test_slow_calls_generate_as_many_as_a_verdict_needs_in_batches_of_any_size(batch: int) -> None:
    assert race.MIN_PROMPTS_WITHIN <= race.reference_prompts(72, batch, 40.0, is_slow=True) < 32


@pytest.mark.parametrize(
    ("prompts", "batch", "affordable", "sets"), [(4, 1, 3.3, 0), (4, 1, 6.5, 1), (4, 1, 8.0, 2), (16, 4, 5.0, 1)]
)
def test_what_is_only_compared_with_takes_what_is_left(prompts: int, batch: int, affordable: float, sets: int) -> None:
    assert race.further_sets(prompts, batch, affordable) == sets


@pytest.mark.parametrize(("count", "batch"), [(64, 1), (64, 8), (24, 1), (4, 1)])
def test_the_looks_share_the_error_of_one(count: int, batch: int) -> None:
    ends = [0, *race.looks(count, batch)]
    errors = [1 - race.confidence(before, prompts, count) for before, prompts in pairwise(ends)]
    assert sum(errors) == pytest.approx(race.ERROR)


@pytest.mark.parametrize(
    ("low", "high", "prompts", "decision"),
    [
        (-0.9, 3, 16, "surely within the tolerance"),
        (-0.9, 3, 8, None),
        (-1.1, 3, 16, None),
        (-3, -1.1, 4, "surely worse"),
        (-3, -0.9, 64, None),
    ],
)
def test_an_interval_decides_if_it_lies_on_one_side(
    low: float, high: float, prompts: int, decision: str | None
) -> None:
    assert race.decision(Estimate(value=(low + high) / 2, low=low, high=high), TOLERANCE, prompts) == decision


def run_race(differences: np.ndarray, count: int = COUNT) -> tuple[str | None, int]:
    """Return the verdict on a candidate with these differences, and how many images it took."""
    before = 0
    for prompts in race.looks(count, 1):
        confidence = race.confidence(before, prompts, count)
        decision = race.decision(statistics.mean_of(differences[:prompts], confidence=confidence), TOLERANCE, prompts)
        if decision is not None:
            return decision, prompts
        before = prompts
    return None, count


@pytest.mark.parametrize("shape", ["normal", "skewed", "few prompts move"])
def test_the_verdict_is_wrong_no_more_often_than_one_look_would_be(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the tolerance itself either verdict is wrong: the worst case."""
    monkeypatch.setattr(statistics, "RESAMPLINGS", 499)
    random = np.random.default_rng(1)
    draws = {
        "normal": lambda: random.normal(-TOLERANCE, 2.0, COUNT),
        "skewed": lambda: -random.exponential(1.0, COUNT),
        "few prompts move": lambda: -4.0 * (random.random(COUNT) < 0.25) + random.normal(0, 0.05, COUNT),
    }
    verdicts = [run_race(draws[shape]())[0] for _ in range(RUNS)]
    wrong = 1 - verdicts.count(None) / RUNS
    assert wrong <= LIMITS[shape]


LIMITS = {"normal": 0.06, "skewed": 0.08, "few prompts move": 0.12}
"""5 %, and what bootstrap-t is off by where a few prompts make the difference (see `statistics.mean_of`)."""


@pytest.mark.parametrize("shape", ["normal", "skewed", "skewed upwards"])
def test_further_prompts_let_hardly_more_pass_wrongly(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What 16 prompts leave in doubt is looked at once more, on 32, if it would be good should its mean stay."""
    monkeypatch.setattr(statistics, "RESAMPLINGS", 499)
    random, passed = np.random.default_rng(1), 0
    draws = {
        "normal": lambda: random.normal(-TOLERANCE, 1.0, 32),
        "skewed": lambda: random.exponential(1.0, 32) - 1.0 - TOLERANCE,
        "skewed upwards": lambda: 1.0 - random.exponential(1.0, 32) - TOLERANCE,
    }
    for _ in range(RUNS):
        differences = draws[shape]()
        last = statistics.mean_of(differences[:16], confidence=race.confidence(8, 16, 16))
        is_promising = last.value - (last.value - last.low) / 2**0.5 >= -TOLERANCE
        if run_race(differences, 16)[0] is None and is_promising:
            further = statistics.mean_of(differences, confidence=race.FURTHER_CONFIDENCE)
            passed += further.low >= -TOLERANCE
    assert passed / RUNS <= 0.02


@pytest.mark.parametrize(
    ("mean", "spread", "images"), [(0.0, 0.2, 16), (-6.0, 2.0, 16), (-6.0, 0.5, 4), (-0.2, 1.0, 32)]
)
def test_clear_candidates_take_few_images(
    mean: float, spread: float, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLINGS", 499)
    random = np.random.default_rng(2)
    taken = [run_race(random.normal(mean, spread, COUNT))[1] for _ in range(40)]
    assert np.median(taken) <= images

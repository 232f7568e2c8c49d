"""The front: what dominates what, what is as good as the baseline, and how much faster, each with its interval."""

from __future__ import annotations

import random

import msgspec
import pytest

from tuner.records.codec import Estimate
from tuner.records.machine import Memory
from tuner.records.outcome import Components, Failure, Outcome, Timing
from tuner.records.quality import Quality
from tuner.result import front


def outcome(
    number: int,
    cost: float = 1.0,
    quality: float = 30.0,
    *,
    difference: tuple[float, float] = (0.0, 0.0),
    latency: tuple[float, float, float] = (1.0, 1.0, 1.0),
    batch: int = 1,
) -> Outcome:
    """A measured outcome; `latency` is low, median, high."""
    low, value, high = latency
    middle = sum(difference) / 2
    return Outcome(
        number=number,
        purpose="search",
        values={"steps": 28, "batch": batch},
        build_key="build",
        image_key="image",
        status="measured",
        timing=Timing(
            latency_s=Estimate(value=value, low=low, high=high), samples=6, images_per_s=batch / value,
            stopped="interval within target",
        ),
        memory=Memory(peak_bytes=1, reserved_bytes=None),
        quality=Quality(
            metric="clip_score", scores=(quality,), mean=quality, psnr_db=None, ssim=None,
            difference=Estimate(value=middle, low=difference[0], high=difference[1]),
        ),
        cost_usd_per_1000_images=cost,
    )  # fmt: skip


def failed(number: int) -> Outcome:
    return Outcome(
        number=number, purpose="search", values={"steps": 28, "batch": 1}, build_key="b", image_key="i",
        status="failed", failure=Failure(kind="crash", stage="load", message="x"), cost_usd_per_1000_images=0.0,
    )  # fmt: skip


def numbers(outcomes: list[Outcome]) -> list[int]:
    return [outcome.number for outcome in outcomes]


def within(trial: Outcome, share: float) -> Outcome:
    """The outcome, so large a share of its calls within a latency target."""
    assert trial.timing is not None
    return msgspec.structs.replace(trial, timing=msgspec.structs.replace(trial.timing, within_target=share))


def test_what_misses_the_latency_target_is_neither_on_the_front_nor_preferred() -> None:
    late, half, early = within(outcome(1, 1, 40), 0.49), within(outcome(2, 2, 35), 0.5), within(outcome(3, 3, 36), 1.0)
    assert numbers(front.pareto_front([late, half, early])) == [2, 3]
    assert numbers(front.eligible([late, half, early], 1.0)) == [2, 3]


def test_the_share_within_the_target_is_that_of_all_samples() -> None:
    first, second = within(outcome(1), 1.0).timing, within(outcome(1), 0.4).timing
    assert first is not None and second is not None
    more = msgspec.structs.replace(second, samples=18)
    assert front.merge_timings([first, more]).within_target == pytest.approx((6 + 0.4 * 18) / 24)
    assert front.merge_timings([first]).within_target == 1.0
    plain = outcome(1).timing
    assert plain is not None
    assert front.merge_timings([plain, plain]).within_target is None


def test_what_several_processes_saw_is_that_of_the_most_typical() -> None:
    def took(seconds: float) -> Timing:
        parts = Components(total_s=seconds, text_encoders_s=None, denoiser_s=seconds, vae_s=None, rest_s=0.0)
        timing = outcome(1, latency=(seconds, seconds, seconds)).timing
        assert timing is not None
        return msgspec.structs.replace(timing, components=parts)

    found = front.merge_timings([took(1.0), took(5.0), took(1.1)])
    assert (found.latency_s.value, found.components) == (1.1, took(1.1).components)


def test_a_ratio_is_widened_by_the_noise_of_two_processes() -> None:
    ratio = Estimate(value=2.0, low=1.9, high=2.1)
    assert front.widen(ratio, 0.0) == ratio
    wider = front.widen(ratio, 0.01)
    assert (wider.value, wider.low) == (2.0, pytest.approx(1.9 / 1.0281, rel=1e-3))
    assert wider.high == pytest.approx(2.1 * 1.0281, rel=1e-3)


def test_the_front_is_what_none_other_beats_cheapest_first() -> None:
    trials = [outcome(0, 10, 30), outcome(1, 5, 28), outcome(2, 6, 27), outcome(3, 2, 20), outcome(4, 11, 29)]
    assert numbers(front.pareto_front(trials)) == [3, 1, 0]


def test_the_front_agrees_with_its_definition_on_random_trials() -> None:
    rng = random.Random(0)
    for _ in range(50):
        trials = [outcome(n, rng.randint(1, 8), rng.randint(1, 8)) for n in range(12)]
        expected = {
            (front.cost(a), front.mean_quality(a))
            for a in trials
            if not any(
                front.cost(b) <= front.cost(a)
                and front.mean_quality(b) >= front.mean_quality(a)
                and (front.cost(b), front.mean_quality(b)) != (front.cost(a), front.mean_quality(a))
                for b in trials
            )
        }
        points = front.pareto_front(trials)
        assert {(front.cost(p), front.mean_quality(p)) for p in points} == expected
        assert len(points) == len(expected), "of equals one stays"


@pytest.mark.parametrize("order", [(3, 1, 2), (1, 2, 3), (2, 3, 1)])
def test_of_equals_the_earliest_stays_whatever_the_order(order: tuple[int, ...]) -> None:
    assert numbers(front.pareto_front([outcome(number, 4, 30) for number in order])) == [1]


def test_at_equal_cost_the_better_and_at_equal_quality_the_cheaper_stays() -> None:
    assert numbers(front.pareto_front([outcome(1, 4, 30), outcome(2, 4, 31)])) == [2]
    assert numbers(front.pareto_front([outcome(1, 4, 30), outcome(2, 3, 30)])) == [2]


def test_what_failed_or_has_no_quality_is_on_no_front() -> None:
    unscored = Outcome(
        number=2, purpose="search", values={"steps": 28, "batch": 1}, build_key="b", image_key="i", status="measured",
        timing=outcome(2).timing, cost_usd_per_1000_images=0.1,
    )  # fmt: skip
    assert front.pareto_front([]) == []
    assert numbers(front.pareto_front([outcome(0), failed(1), unscored])) == [0]
    assert numbers(front.eligible([outcome(0), failed(1), unscored], 1.0)) == [0]


@pytest.mark.parametrize(
    ("difference", "good"),
    [((0.0, 0.0), True), ((-1.0, 3.0), True), ((-1.01, 3.0), False), ((0.5, 2.0), True), ((-3.0, -2.0), False)],
)
def test_as_good_is_judged_by_the_low_end_of_the_interval(difference: tuple[float, float], good: bool) -> None:
    assert front.is_as_good(outcome(1, difference=difference), tolerance=1.0) is good


def test_a_cheap_trial_with_a_good_mean_and_a_wide_interval_is_not_chosen() -> None:
    trials = [
        outcome(0, 10, 30),
        outcome(1, 1, 30.5, difference=(-4.0, 5.0)),
        outcome(2, 5, 29.8, difference=(-0.5, 0.1)),
        outcome(3, 7, 33.0, difference=(2.0, 4.0)),
        outcome(4, 2, 25.0, difference=(-6.0, -4.0)),
    ]
    assert numbers(front.eligible(trials, tolerance=1.0)) == [2, 3, 0]
    assert numbers(front.eligible(trials, tolerance=0.0)) == [3, 0]
    assert numbers(front.eligible(trials, tolerance=10.0)) == [1, 4, 2, 3, 0]


def test_of_equally_cheap_trials_the_earlier_is_preferred() -> None:
    assert numbers(front.eligible([outcome(0, 5), outcome(1, 5), outcome(2, 5)], 0.0)) == [0, 1, 2]


def test_the_baseline_is_as_good_as_itself_at_no_tolerance() -> None:
    assert numbers(front.eligible([outcome(0, 10)], tolerance=0.0)) == [0]


def test_the_speed_up_is_of_throughput_and_covers_every_process() -> None:
    baseline = [outcome(0, latency=(9.0, 10.0, 11.0)), outcome(0, latency=(9.5, 10.2, 10.5))]
    tuned = [outcome(7, latency=(7.0, 8.0, 9.0), batch=4), outcome(7, latency=(7.5, 8.4, 8.8), batch=4)]
    gain = front.speed_up(baseline, tuned)
    assert gain.value == pytest.approx(10.1 / (8.2 / 4))
    assert gain.low == pytest.approx(9.0 / (9.0 / 4))
    assert gain.high == pytest.approx(11.0 / (7.0 / 4))


def test_a_gain_inside_the_spread_of_the_processes_is_not_sure() -> None:
    baseline = [outcome(0, latency=(0.99, 1.0, 1.01)), outcome(0, latency=(0.94, 0.95, 0.96))]
    tuned = [outcome(3, latency=(0.96, 0.97, 0.98))]
    gain = front.speed_up(baseline, tuned)
    assert gain.value > 1.0
    assert gain.low < 1.0 < gain.high
    assert front.speed_up(baseline, baseline).low <= 1.0 <= front.speed_up(baseline, baseline).high

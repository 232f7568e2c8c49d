"""What a configuration costs: the arithmetic, and what is left unsaid because it is not known."""

from __future__ import annotations

import json
import math

import pytest

from tuner.records.codec import decode, encode_pretty
from tuner.result.economics import (
    CARDS_GB,
    Economics,
    Measurement,
    break_even_images,
    economics,
    goodput,
    smallest_card_gb,
)
from tuner.timing.intervals import percentile, supports_percentile
from tuner.timing.target import meets_latency_target

BASELINE = Measurement(images_per_s=0.5, latency_s=2.0, latency_samples=60, compile_s=1.0)


def point(**changes: object) -> Measurement:
    return Measurement(**{"images_per_s": 2.0, "latency_s": 1.0, "latency_samples": 60, **changes})  # type: ignore[arg-type]


def test_costs_and_rates() -> None:
    found = economics(3.6, point(), BASELINE)
    assert math.isclose(found.usd_per_1000_images, 0.5)
    assert math.isclose(found.usd_per_million_images, 500.0)
    assert math.isclose(found.images_per_hour, 7200.0)
    assert math.isclose(found.images_per_1000_usd, 2_000_000.0)


def test_the_figures_of_the_article() -> None:
    """Lambda: 4.11 s an image at 3.29 US$ an hour; the figures there come from rounded ones."""
    found = economics(3.29, point(images_per_s=1 / 4.11, latency_s=4.11), BASELINE)
    assert math.isclose(found.usd_per_1000_images, 3.76, rel_tol=2e-3)
    assert math.isclose(found.images_per_hour, 875, rel_tol=2e-3)
    assert math.isclose(found.images_per_1000_usd, 265_957, rel_tol=2e-3)


def test_what_is_not_known_is_absent() -> None:
    found = economics(1.0, point(latency_samples=4, latency_p95_s=1.2), BASELINE)
    known = {"usd_per_1000_images", "usd_per_million_images", "images_per_hour", "images_per_1000_usd"}
    assert json.loads(encode_pretty(found)).keys() == known | {"latency_samples"}
    assert decode(encode_pretty(found), Economics, "here") == found


def test_only_what_meets_the_latency_target_is_worth_its_price() -> None:
    found, whole = economics(3.6, point(within_target=0.8), BASELINE), economics(3.6, point(), BASELINE)
    assert found.usd_per_1000_images == pytest.approx(whole.usd_per_1000_images / 0.8)
    assert found.images_per_hour == pytest.approx(0.8 * whole.images_per_hour)
    assert found.images_per_1000_usd == pytest.approx(0.8 * whole.images_per_1000_usd)


def test_a_configuration_that_misses_the_target_is_none_and_costs_what_it_costs() -> None:
    assert list(map(meets_latency_target, (None, 1.0, 0.5, 0.49, 0.0))) == [True, True, True, False, False]
    assert (goodput(2.0, None), goodput(2.0, 0.5), goodput(2.0, 0.0)) == (2.0, 1.0, 2.0)


def test_energy() -> None:
    found = economics(1.0, point(joules_per_image=250.0), BASELINE)
    assert (found.joules_per_image, found.images_per_s_per_watt) == (250.0, 0.004)


# ---- percentiles ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "needed"), [(0.50, 5), (0.95, 59), (0.99, 299)])
def test_a_percentile_needs_so_many_samples(share: float, needed: int) -> None:
    assert supports_percentile(needed, share)
    assert not supports_percentile(needed - 1, share)
    assert not supports_percentile(0, share)


def test_a_percentile_is_a_sample_or_nothing() -> None:
    samples = [float(number) for number in range(100, 0, -1)]
    assert percentile(samples, 0.95) == 95.0
    assert percentile(samples, 0.50) == 50.0
    assert percentile(samples[:58], 0.95) is None
    assert percentile([], 0.50) is None


@pytest.mark.parametrize(("samples", "p50", "p95"), [(59, 1.0, 1.5), (58, 1.0, None), (5, 1.0, None), (0, None, None)])
def test_a_percentile_without_the_samples_is_not_passed_on(samples: int, p50: float | None, p95: float | None) -> None:
    found = economics(1.0, point(latency_samples=samples, latency_p95_s=1.5), BASELINE)
    assert (found.latency_p50_s, found.latency_p95_s, found.latency_samples) == (p50, p95, samples)


# ---- compiling ------------------------------------------------------------------------------------------------------


def test_compiling_is_paid_for_when_the_total_time_is_no_longer_more() -> None:
    ours = point(compile_s=30.0)
    images = break_even_images(ours, BASELINE)
    assert images == 20, "29 s longer than the baseline's 1 s, at 1.5 s an image saved: 19.3"

    def total_s(one: Measurement, count: int) -> float:
        assert one.compile_s is not None
        return one.compile_s + count / one.images_per_s

    assert total_s(ours, images) <= total_s(BASELINE, images)
    assert total_s(ours, images - 1) > total_s(BASELINE, images - 1)


@pytest.mark.parametrize(
    ("changes", "images"),
    [
        ({"compile_s": 0.5}, 0),
        ({"compile_s": None}, None),
        ({"compile_s": 60.0, "images_per_s": 0.5}, None),
        ({"compile_s": 60.0, "images_per_s": 0.1}, None),
        ({"compile_s": 0.0, "images_per_s": 0.1}, None),
        ({"compile_s": 1e300, "images_per_s": 0.5 + 1e-16}, None),
    ],
)
def test_when_compiling_is_paid_for_at_once_or_never(changes: dict[str, float | None], images: int | None) -> None:
    assert break_even_images(point(**changes), BASELINE) == images


def test_the_baseline_has_nothing_to_pay_for() -> None:
    found = economics(1.0, BASELINE, BASELINE)
    assert (found.compile_s, found.break_even_images) == (1.0, None)


def test_a_build_compiles_once_whatever_the_steps_of_its_points() -> None:
    many, few = (point(compile_s=30.0, latency_s=seconds, images_per_s=1 / seconds) for seconds in (4.0, 1.0))
    assert economics(1.0, many, BASELINE).compile_s == economics(1.0, few, BASELINE).compile_s == 30.0


# ---- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gigabytes", "card"),
    [
        (None, None),
        (0.1, 16),
        (14.4, 16),
        (14.5, 24),
        (21.6, 24),
        (21.7, 32),
        (30, 48),
        (43.3, 80),
        (72, 80),
        (73, None),
    ],
)
def test_the_smallest_card_has_a_tenth_of_it_left(gigabytes: float | None, card: int | None) -> None:
    assert smallest_card_gb(None if gigabytes is None else round(gigabytes * 1e9)) == card


def test_cards_are_in_order() -> None:
    assert list(CARDS_GB) == sorted(CARDS_GB)

"""Timing: the interval covers the median, the stopping rule stops for the reason it gives, warming up ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle, repeat
from types import SimpleNamespace

import numpy as np
import pytest

from tuner import measure
from tuner.measure import MINIMUM_SAMPLES, median_interval, warm_up


class Clock:
    """A clock that only a call moves, by the next of the given durations."""

    def __init__(self, durations: Iterator[float]) -> None:
        self.durations = durations
        self.now = 100.0
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        self.now += next(self.durations)

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[float]], Clock]:
    def start(durations: Iterator[float]) -> Clock:
        clock = Clock(durations)
        monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=clock.perf_counter))
        return clock

    return start


def nothing() -> None:
    """In place of a device to wait for."""


@pytest.mark.parametrize("count", [6, 7, 8, 10, 13, 20, 27, 40])
def test_the_interval_covers_the_median_of_a_skewed_distribution(count: int) -> None:
    random = np.random.default_rng(count)
    repeats = 1500
    covered = 0
    for sample in random.lognormal(size=(repeats, count)):
        estimate = median_interval(sample.tolist())
        covered += estimate.low <= 1.0 <= estimate.high
        assert estimate.low <= estimate.value <= estimate.high
    # Three standard errors of a share of 0.95 below it.
    assert covered / repeats >= 0.95 - 3 * (0.95 * 0.05 / repeats) ** 0.5


def test_the_interval_is_the_narrowest_that_covers() -> None:
    # Ranks of the tables for the median (Conover, Practical Nonparametric Statistics): n=10 -> 2nd and 9th.
    for count, lowest in ((6, 0), (8, 0), (9, 1), (10, 1), (12, 2), (15, 3), (20, 5), (25, 7), (40, 13)):
        estimate = median_interval([float(value) for value in range(count)])
        assert (estimate.low, estimate.high) == (lowest, count - 1 - lowest), count


def test_the_median_is_the_middle_whatever_the_order() -> None:
    assert median_interval([5, 1, 3, 2, 4, 6, 7]).value == 4
    assert median_interval([4, 1, 3, 2, 6, 5]).value == 3.5
    assert median_interval([2.0]).high == 2.0


def test_it_stops_when_the_interval_is_narrow(clocked: Callable[[Iterator[float]], Clock]) -> None:
    clock = clocked(cycle([1.0, 1.001, 0.999]))
    timing = measure.measure(clock, nothing, batch=4, allowance_s=1000)
    assert timing.stopped == "interval within target"
    assert timing.samples == clock.calls == MINIMUM_SAMPLES
    assert timing.latency_s.value == pytest.approx(1.0, rel=1e-3)
    assert timing.images_per_s == pytest.approx(4.0, rel=1e-3)


def test_it_stops_when_the_allowance_is_spent(clocked: Callable[[Iterator[float]], Clock]) -> None:
    clock = clocked(cycle([1.0, 3.0]))
    timing = measure.measure(clock, nothing, batch=1, allowance_s=30)
    assert timing.stopped == "time allowance spent"
    assert timing.samples == clock.calls == 16  # 15 take 29 s
    assert timing.latency_s.low == 1.0
    assert timing.latency_s.high == 3.0


def test_six_samples_are_taken_even_when_the_first_spends_the_allowance(
    clocked: Callable[[Iterator[float]], Clock],
) -> None:
    timing = measure.measure(clocked(cycle([5.0, 9.0])), nothing, batch=1, allowance_s=0.0)
    assert timing.samples == MINIMUM_SAMPLES
    assert timing.stopped == "time allowance spent"


def test_noise_costs_samples_until_the_interval_is_narrow(clocked: Callable[[Iterator[float]], Clock]) -> None:
    random = np.random.default_rng(0)
    clock = clocked(float(value) for value in random.normal(1.0, 0.01, size=100_000))
    timing = measure.measure(clock, nothing, batch=1, allowance_s=10_000)
    assert timing.stopped == "interval within target"
    assert timing.samples > MINIMUM_SAMPLES
    assert (timing.latency_s.high - timing.latency_s.low) / 2 <= 0.005 * timing.latency_s.value


def test_a_call_is_timed_with_the_device_idle_at_both_ends(clocked: Callable[[Iterator[float]], Clock]) -> None:
    clock = clocked(repeat(0.25))
    pending = [3.0]

    def synchronise() -> None:
        clock.now += pending.pop() if pending else 0.0

    def call() -> None:
        clock()
        pending.append(2.0)

    assert measure.timed(call, synchronise) == pytest.approx(2.25)


def test_a_real_call_is_timed_by_a_real_clock() -> None:
    import time

    assert 0.02 <= measure.timed(lambda: time.sleep(0.02), nothing) < 1.0


@pytest.mark.parametrize(
    ("seconds", "compiled", "calls"),
    [
        ([9, 1, 1, 1], [0] * 9, 3),  # the first call was slow: two alike must follow
        ([1, 1], [0] * 9, 2),
        ([1] * 9, [1, 2, 2, 2, 2], 3),  # the time stands still, yet something is compiled in the second call
        ([8, 4, 2, 1, 0.5, 0.25, 0.1, 0.05, 0.02], [0] * 9, 8),  # never settles: ended after eight
        ([1] * 9, list(range(1, 10)), 8),  # compiles for ever: ended after eight
    ],
)
def test_warming_up_ends(
    clocked: Callable[[Iterator[float]], Clock], seconds: list[float], compiled: list[int], calls: int
) -> None:
    clock = clocked(iter(seconds))

    def graphs() -> int:
        return ([0, *compiled])[clock.calls]

    warm_up(clock, nothing, graphs)
    assert clock.calls == calls

"""Timing: the stopping rule stops for the reason it gives, warming up ends, what a watch discards does not count; and
the intervals cover what they are intervals of."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, cycle, repeat
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tuner.records.codec import Estimate
from tuner.records.machine import GpuUse
from tuner.timing import intervals, measure
from tuner.timing.intervals import MIN_SAMPLES, median_interval
from tuner.timing.measure import Clock, StoppingRule, Throttled, time_call, warm_up

HOST = Clock()


class Durations:
    """A call that takes the next of the given durations, by a clock that nothing else moves but sleeping."""

    def __init__(self, durations: Iterator[float]) -> None:
        self.durations = durations
        self.now = 100.0
        self.calls = 0
        self.slept: list[float] = []

    def __call__(self) -> None:
        self.calls += 1
        self.now += next(self.durations)

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


Start = Callable[[Iterator[float]], Durations]


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Start:
    def start(durations: Iterator[float]) -> Durations:
        call = Durations(durations)
        monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=call.perf_counter, sleep=call.sleep))
        return call

    return start


class Device(Clock):
    """A device that works on when a call has returned, and whose own clock starts at 0 and is a little slow."""

    is_device_clock = True

    def __init__(self, call: Durations) -> None:
        self.call = call
        self.pending = 0.0

    def synchronize(self) -> None:
        self.call.now += self.pending
        self.pending = 0.0

    def record(self) -> float:
        return (self.call.now + self.pending - 100) * 0.99


class Watcher:
    """A watch that says what it is told to say, call by call."""

    def __init__(self, reasons: Iterator[str | None]) -> None:
        self.reasons = reasons
        self.begun = 0

    def begin(self) -> None:
        self.begun += 1

    def end(self) -> str | None:
        return next(self.reasons)

    def keep(self, counts: Sequence[bool]) -> None:
        pass

    def report(self) -> GpuUse:
        return GpuUse(power_w=300.0)


@pytest.fixture(autouse=True)
def all_calls_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow calls have tests of their own."""
    monkeypatch.setattr(measure, "SLOW_CALL_S", math.inf)


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


def test_it_stops_when_the_interval_is_narrow(clocked: Start) -> None:
    clock = clocked(cycle([1.0, 1.001, 0.999]))
    timing = measure.measure(clock, HOST, batch=4, rule=StoppingRule(1000))
    assert timing.stopped == "interval within target"
    assert timing.samples == clock.calls == MIN_SAMPLES
    assert timing.latency_s.value == pytest.approx(1.0, rel=1e-3)
    assert timing.images_per_s == pytest.approx(4.0, rel=1e-3)


def test_it_stops_when_the_allowance_is_spent(clocked: Start) -> None:
    clock = clocked(cycle([1.0, 1.9]))
    timing = measure.measure(clock, HOST, batch=1, rule=StoppingRule(30))
    assert timing.stopped == "time allowance spent"
    assert timing.samples == clock.calls == 21  # 20 take 29 s
    assert timing.latency_s.low == 1.0
    assert timing.latency_s.high == pytest.approx(1.9)


def test_six_samples_are_taken_even_when_the_first_spends_the_allowance(
    clocked: Start,
) -> None:
    timing = measure.measure(clocked(cycle([5.0, 9.0])), HOST, batch=1, rule=StoppingRule(0.0))
    assert timing.samples == MIN_SAMPLES
    assert timing.stopped == "time allowance spent"


def test_noise_costs_samples_until_the_interval_is_narrow(clocked: Start) -> None:
    random = np.random.default_rng(0)
    clock = clocked(float(value) for value in random.normal(1.0, 0.01, size=100_000))
    timing = measure.measure(clock, HOST, batch=1, rule=StoppingRule(10_000))
    assert timing.stopped == "interval within target"
    assert timing.samples > MIN_SAMPLES
    assert (timing.latency_s.high - timing.latency_s.low) / 2 <= 0.005 * timing.latency_s.value


def test_it_looks_ever_more_seldom(clocked: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def look(samples: Sequence[float]) -> Estimate:
        looks.append(len(samples))
        return median_interval(samples)

    monkeypatch.setattr(measure, "latency_interval", look)
    measure.measure(clocked(cycle([1.0, 1.9])), HOST, batch=1, rule=StoppingRule(60))
    assert looks == [6, 9, 14, 21, 32, 42], "the last when the time was spent"


@pytest.mark.parametrize(("allowance_s", "samples", "p95"), [(57.5, 58, None), (58.5, 59, 2.0)])
def test_the_95th_percentile_is_told_where_the_samples_are_enough(
    clocked: Start, allowance_s: float, samples: int, p95: float | None
) -> None:
    durations = chain([2.0] * 3, cycle([0.9, 1.0]))
    timing = measure.measure(clocked(durations), HOST, batch=1, rule=StoppingRule(allowance_s))
    assert (timing.samples, timing.latency_p95_s) == (samples, p95)


# ---- two clocks -----------------------------------------------------------------------------------------------------


def test_a_call_is_timed_with_the_device_idle_at_both_ends(clocked: Start) -> None:
    call = clocked(repeat(0.25))
    device = Device(call)
    device.pending = 3.0

    def queue() -> None:
        call()
        device.pending += 2.0

    host_s, device_s = measure.time_call(queue, device)
    assert host_s == pytest.approx(2.25)
    assert device_s == pytest.approx(2.25 * 0.99)


def test_the_devices_own_clock_is_told_where_there_is_one(clocked: Start) -> None:
    call = clocked(cycle([1.0, 1.001, 0.999]))
    timing = measure.measure(call, Device(call), batch=1, rule=StoppingRule(1000))
    assert timing.device_s is not None
    assert timing.device_s.value == pytest.approx(0.99 * timing.latency_s.value)


def test_on_a_cpu_what_needs_a_gpu_is_absent(clocked: Start) -> None:
    timing = measure.measure(clocked(repeat(1.0)), HOST, batch=1, rule=StoppingRule(1000))
    assert timing.device_s is None
    assert timing.gpu is None


def test_a_real_call_is_timed_by_a_real_clock() -> None:
    host_s, device_s = measure.time_call(lambda: time.sleep(0.02), HOST)
    assert 0.02 <= device_s <= host_s < 1.0


# ---- warming up -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "compiled", "calls", "settled"),
    [
        ([9, 1, 1, 1], [0] * 9, 3, True),  # the first call was slow: two alike must follow
        ([1, 1], [0] * 9, 2, True),
        ([1] * 9, [1, 2, 2, 2, 2], 4, True),  # two are compiled in, and two must follow
        ([1] * 9, [0, 1, 1, 1, 1], 4, True),  # one compiled late: the calls before it show nothing
        ([1 - 0.02 * n for n in range(9)], [0] * 9, 8, False),  # it falls by little, but it falls
        ([1, 0.98, 0.96, 0.965], [0] * 9, 4, True),
        ([8, 4, 2, 1, 0.5, 0.25, 0.1, 0.05, 0.02], [0] * 9, 8, False),  # never settles: ended after eight
        ([1] * 9, list(range(1, 10)), 8, False),  # compiles for ever: ended after eight
    ],
)
def test_warming_up_ends(clocked: Start, seconds: list[float], compiled: list[int], calls: int, settled: bool) -> None:
    call = clocked(iter(seconds))

    def graphs() -> int:
        return ([0, *compiled])[call.calls]

    done = warm_up(call, HOST, graphs)
    assert (done.calls, done.settled) == (calls, settled)
    assert done.last_call_s == pytest.approx(seconds[calls - 1])
    assert call.calls == calls


def test_short_calls_warm_up_for_as_long_as_is_allowed(clocked: Start) -> None:
    call = clocked(chain((0.02 * 0.99**n for n in range(30)), repeat(0.0145)))
    done = warm_up(call, HOST, lambda: 0, allowance_s=20.0)
    assert done.settled
    assert done.calls > 30
    assert not warm_up(clocked(0.02 * 0.99**n for n in range(30)), HOST, lambda: 0, allowance_s=0.3).settled


# ---- discarded samples ----------------------------------------------------------------------------------------------


def test_a_discarded_sample_counts_for_nothing_and_is_followed_by_a_pause(clocked: Start) -> None:
    call = clocked(chain([5.0, 5.0, 5.0], repeat(1.0)))
    watch = Watcher(chain(["HW power brake"] * 3, repeat(None)))
    timing = measure.measure(call, HOST, batch=1, rule=StoppingRule(1000), monitor=watch)
    assert timing.samples == MIN_SAMPLES
    assert timing.latency_s.high == 1.0
    assert watch.begun == call.calls == MIN_SAMPLES + 3
    assert call.slept == [0.05, 0.1, 0.2]
    assert timing.gpu == GpuUse(power_w=300.0)


@pytest.mark.parametrize(
    ("durations", "stalled"),
    [
        ([0.2, 0.2, 5.0, 0.2, 3.0, 0.2, 0.2, 0.2], 2),
        ([0.2, 0.2, 0.9, 0.2, 0.2, 0.2], 0),
        ([60.0, 62.0, 75.0, 61.0, 60.0, 60.0], 0),
        ([5.0, 5.0, 5.0, 5.0, 0.2, 0.2], 0),
    ],
    ids=["stalls", "shorter than a second", "less than twice as long", "most are slow"],
)
def test_a_stalled_call_does_not_count_and_is_made_again(clocked: Start, durations: list[float], stalled: int) -> None:
    call = clocked(chain(durations, repeat(0.2)))
    timing = measure.measure(call, HOST, batch=1, rule=StoppingRule(0.0))
    assert (timing.stalled_calls, timing.samples) == (stalled, MIN_SAMPLES)
    assert call.calls == MIN_SAMPLES + stalled
    if stalled:
        assert (timing.latency_s.value, timing.latency_s.high) == (pytest.approx(0.2), pytest.approx(0.2))


def test_pauses_do_not_grow_for_ever(clocked: Start) -> None:
    call = clocked(repeat(1.0))
    watch = Watcher(chain(["HW slowdown"] * 9, repeat(None)))
    measure.measure(call, HOST, batch=1, rule=StoppingRule(1000), monitor=watch)
    assert call.slept[-1] == call.slept[-2] == measure.MAX_PAUSE_S


def test_no_accepted_sample_is_a_failure_by_name(clocked: Start) -> None:
    call = clocked(repeat(1.0))
    with pytest.raises(Throttled, match="6 of 6 calls were discarded, the last: SW thermal"):
        measure.measure(call, HOST, batch=1, rule=StoppingRule(4.0), monitor=Watcher(repeat("SW thermal slowdown")))


def test_too_few_accepted_samples_have_no_interval_and_fail_too(clocked: Start) -> None:
    watch = Watcher(chain([None] * (MIN_SAMPLES - 1), repeat("HW slowdown")))
    with pytest.raises(Throttled, match="6 of 11 calls"):
        measure.measure(clocked(repeat(1.0)), HOST, batch=1, rule=StoppingRule(0.0), monitor=watch)


def test_a_brake_after_enough_samples_ends_the_timing(clocked: Start) -> None:
    call = clocked(cycle([1.0, 1.1]))
    watch = Watcher(chain([None] * 7, repeat("HW slowdown")))
    timing = measure.measure(call, HOST, batch=1, rule=StoppingRule(20.0), monitor=watch)
    assert timing.samples == 7
    assert timing.stopped == "time allowance spent"


# ---- intervals ------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_students() -> None:
    estimate = intervals.mean_interval([1.0, 2.0, 3.0, 4.0])
    assert estimate.value == 2.5
    assert estimate.high - 2.5 == pytest.approx(3.1824 * statistics.stdev([1, 2, 3, 4]) / 2, rel=1e-4)


def test_the_spread_of_processes_is_told_as_a_share() -> None:
    assert intervals.coefficient_of_variation([99.0, 100.0, 101.0]) == pytest.approx(0.01)
    assert intervals.coefficient_of_variation([2.0, 2.0]) == 0.0


@pytest.mark.parametrize("pairs", [2, 3, 5, 8])
def test_the_interval_of_a_ratio_covers_it_whatever_the_number_of_pairs(pairs: int) -> None:
    random, repeats, covered, shared = np.random.default_rng(pairs), 1500, 0, 0
    for _ in range(repeats):
        drift = np.exp(0.05 * random.normal(size=pairs))  # the machine changes from pair to pair
        ours = (3.0 * drift * np.exp(0.004 * random.normal(size=pairs))).tolist()
        theirs = (2.0 * drift * np.exp(0.004 * random.normal(size=pairs))).tolist()
        calm = np.exp(0.004 * random.normal(size=4)).tolist()
        covered += brackets(1.5, ours, theirs)
        shared += brackets(1.5, ours, theirs, calm)
    allowed = 3 * (0.95 * 0.05 / repeats) ** 0.5
    assert abs(covered / repeats - 0.95) < allowed
    assert abs(shared / repeats - 0.95) < allowed


def brackets(ratio: float, ours: list[float], theirs: list[float], others: Sequence[float] = ()) -> bool:
    found = intervals.paired_ratio(ours, theirs, [others])
    return found.low <= ratio <= found.high


def test_two_pairs_are_honest_and_further_processes_help() -> None:
    ours, theirs = [1.02, 1.025], [1.0, 0.999]
    alone = intervals.paired_ratio(ours, theirs)
    assert alone.value == pytest.approx(1.023, rel=1e-3)
    assert not intervals.differs(alone), "two pairs leave too much open"
    helped = intervals.paired_ratio(ours, theirs, [[1.0, 1.001, 0.999, 1.002]])
    assert helped.value == alone.value
    assert alone.low < helped.low < helped.high < alone.high
    assert intervals.differs(helped)


def test_a_slowdown_of_2_percent_is_detected_and_none_is_not() -> None:
    random, repeats = np.random.default_rng(1), 400
    found, alarms = 0, 0
    for _ in range(repeats):
        one, other = (np.exp(0.0036 * random.normal(size=(2, 5)))).tolist()
        found += intervals.differs(intervals.paired_ratio([1.02 * value for value in one], other))
        alarms += intervals.differs(intervals.paired_ratio(one, other))
    assert found / repeats > 0.95
    assert alarms / repeats < 0.09


@pytest.mark.parametrize(
    ("ours", "theirs", "unpaired"),
    [
        ([], [], []),
        ([1.0, 2.0], [1.0], []),
        ([1.0], [1.0], []),
        ([1.0], [1.0], [[1.0, 1.1], [1.0], []]),
    ],
)
def test_no_ratio_without_pairs_or_with_too_little_beside_one(
    ours: list[float], theirs: list[float], unpaired: list[list[float]]
) -> None:
    with pytest.raises(ValueError, match=r"at least one pair|degrees of freedom from other processes, not"):
        intervals.paired_ratio(ours, theirs, unpaired)


def test_the_interval_of_a_single_pair_holds_although_its_processes_tell_how_much_they_vary() -> None:
    """Both configurations are the same: the interval covers 1 in 95 % of cases, and in no more than it must."""
    random, repeats, misses = np.random.default_rng(4), 2000, 0
    for _ in range(repeats):
        before, after = (np.exp(0.003 * random.normal(size=(2, 2)))).tolist()
        ratio = intervals.paired_ratio(before[1:], after[1:], [before, after])
        assert ratio.value == pytest.approx(before[1] / after[1])
        misses += intervals.differs(ratio)
    assert 0.01 < misses / repeats < 0.05


def test_students_t_is_that_of_scipy() -> None:
    for degrees in (*range(1, len(intervals.T_95) + 3), 200):
        assert intervals.student_t(degrees) == pytest.approx(float(stats.t.ppf(0.975, degrees)), abs=1e-6)


def test_comparing_a_few_processes_loads_no_scipy() -> None:
    code = "import sys; from tuner.timing.intervals import paired_ratio; paired_ratio([1.0, 1.1], [2.0, 2.1])"
    run = subprocess.run([sys.executable, "-c", f"{code}; sys.exit('scipy' in sys.modules)"], check=False)
    assert run.returncode == 0


EVEN = [1.0, 1.002, 1.001, 0.999, 0.998] * 4
"""Processes that vary, every second as much as the others."""


@pytest.fixture
def few_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare in a tenth of the random orders, which take the most time."""
    import bench_aa

    monkeypatch.setattr(bench_aa, "ORDERS", 100)


@pytest.mark.usefixtures("few_orders")
def test_the_program_that_plants_a_slowdown_judges_what_it_found() -> None:
    import bench_aa

    first, second, ratio, orders, early, alarms, found = bench_aa.summary(EVEN, [1.02 * value for value in EVEN])
    assert first.startswith("20 processes as it is: coefficient of variation 0.15%")
    assert first.endswith("at most 0.5% asked for: MET")
    assert second.startswith("20 processes slowed")
    assert ratio.endswith("called a difference")
    share, _, rest = orders.removeprefix("in 100 random orders of these processes ").partition("%")
    assert 0 < float(share) < 7
    assert rest == " of A/A comparisons call a gain, 100.0% of the slowed"
    assert early == "after 2 turns, any difference counted: 0 of 20 A/A comparisons, 20 of the slowed"
    assert alarms.startswith("A/A: 0 of 20 (0 after 2 turns) comparisons call a gain")
    assert alarms.endswith("at most 5% asked for: MET")
    assert found.startswith("slowed: 20 of 20 (20 after 2 turns) comparisons call the gain")
    assert found.endswith("at least 95% asked for: MET")


@pytest.mark.usefixtures("few_orders")
def test_the_program_that_plants_a_slowdown_admits_what_is_not_met() -> None:
    import bench_aa

    noisy = [1 + 10 * (value - 1) for value in EVEN]
    first, *_, found = bench_aa.summary(noisy, noisy[::-1])
    assert first.endswith(": NOT MET")
    assert found.endswith(": NOT MET")
    *_, alarms, _ = bench_aa.summary([1.0, 0.97, 1.001, 0.971] * 5, EVEN)
    assert alarms.startswith("A/A: 10 of 20 ")
    assert alarms.endswith(": NOT MET")
    assert bench_aa.summary(EVEN[:5], EVEN[:5])[-1] == "comparisons as at the end of a study take 16 processes"


def test_a_gain_where_there_is_none_is_called_in_one_comparison_of_twenty() -> None:
    import bench_aa

    random = np.random.default_rng(1)
    called = [bench_aa.is_gain(same, same, 0) for same in np.exp(0.003 * random.normal(size=(1000, 16))).tolist()]
    assert 0.02 < sum(called) / len(called) < 0.07


def test_no_process_is_in_a_comparison_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_aa

    taken: list[tuple[list[float], list[float], list[float]]] = []

    def noted(ours: list[float], theirs: list[float], others: list[list[float]]) -> Estimate:
        taken.append((ours, theirs, *others))
        return Estimate(value=1.0, low=0.9, high=1.1)

    monkeypatch.setattr(bench_aa, "paired_ratio", noted)
    numbers = [float(number) for number in range(20)]
    assert bench_aa.gains(numbers, numbers) == 0
    assert len(taken) == 2 * len(numbers)
    assert [len(sides[0]) for sides in taken[:2]] == [2, 6]
    assert all(first[2] == second[2] for first, second in zip(taken[::2], taken[1::2], strict=True))
    for sides in taken:
        together = [number for side in sides for number in side]
        assert len(together) == len(set(together))


def test_only_the_calls_of_one_point_are_slowed(monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_aa

    from tuner.records.protocol import Point
    from tuner.worker.calls import PipelineCalls
    from tuner.worker.timing import Timer

    def user_call(calls: PipelineCalls, point: Point) -> Callable[[], object]:
        return lambda: time.sleep(0.01)

    def main(arguments: list[str]) -> int:
        calls: Any = SimpleNamespace(clock=Clock())
        points = [Point(index=index, folder="", steps=1, batch=1) for index in (0, bench_aa.SLOWED)]
        seconds = [time_call(PipelineCalls.user_call(calls, point), calls.clock)[0] for point in points]
        assert 0.01 <= seconds[0] < 0.05 < 0.06 <= seconds[1]
        assert Timer.known_timing(calls, points[0]) is None
        return 7

    monkeypatch.setattr(PipelineCalls, "user_call", user_call)
    monkeypatch.setattr(bench_aa.__main__, "main", main)
    assert bench_aa.work(5.0, []) == 7
    assert PipelineCalls.user_call is user_call


def test_each_comparison_is_of_processes_in_turns() -> None:
    import bench_aa

    assert bench_aa.around([0.0, 1.0, 2.0, 3.0], 3, 2) == [3.0, 0.0]
    assert bench_aa.around([0.0, 1.0, 2.0, 3.0], 1, 2, 2) == [1.0, 3.0]


def samples_of(count: int, seed: int = 0) -> list[float]:
    return np.random.default_rng(seed).lognormal(0.0, 0.3, count).tolist()


@pytest.mark.parametrize("count", [*range(1, 60), 99, 100, 251, 1000])
def test_the_interval_of_a_median_has_the_ranks_of_the_binomial(count: int) -> None:
    samples = samples_of(count)
    below = np.cumsum([math.comb(count, k) / 2**count for k in range(count)])
    rank = max(int(np.argmax(below > 0.025)) - 1, 0) if count > 1 else 0
    ordered = sorted(samples)
    assert intervals.median_interval(samples) == Estimate(
        value=statistics.median(samples), low=ordered[rank], high=ordered[count - 1 - rank]
    )


@pytest.mark.parametrize("count", [6, 7, 20, 101, 400])
def test_the_interval_of_a_median_is_that_of_scipys_quantile_test(count: int) -> None:
    samples = samples_of(count)
    interval = stats.quantile_test(samples, q=0.0, p=0.5).confidence_interval(0.95)
    estimate = intervals.median_interval(samples)
    assert (estimate.low, estimate.high) == (interval.low, interval.high)


@pytest.mark.parametrize("count", [2, 3, 10, 500])
def test_means_and_ratios_agree_with_scipys_t_test(count: int) -> None:
    ours, theirs = samples_of(count, 1), samples_of(count, 2)
    interval = stats.ttest_1samp(ours, 0.0).confidence_interval(0.95)
    estimate = intervals.mean_interval(ours)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    interval = stats.ttest_rel(np.log(ours), np.log(theirs)).confidence_interval(0.95)
    ratio = intervals.paired_ratio(ours, theirs)
    assert (ratio.low, ratio.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)), rel=1e-9)
    assert intervals.coefficient_of_variation(ours) == pytest.approx(stats.variation(ours, ddof=1), rel=1e-12)


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_a_percentile_has_the_nearest_rank(share: float) -> None:
    for count in range(1, 400):
        samples = samples_of(count)
        if intervals.supports_percentile(count, share):
            assert intervals.percentile(samples, share) == sorted(samples)[math.ceil(share * count) - 1]
        else:
            assert intervals.percentile(samples, share) is None


def test_equal_samples_have_an_interval_of_no_width() -> None:
    for estimate in (intervals.median_interval([2.0] * 8), intervals.mean_interval([2.0] * 8)):
        assert estimate == Estimate(value=2.0, low=2.0, high=2.0)

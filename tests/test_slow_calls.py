"""Slow calls: their latency is composed from calls with few steps, and few whole ones are timed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from channels import make_channel

from tuner.hardware import environment
from tuner.records.codec import Estimate
from tuner.records.machine import GpuUse, Memory
from tuner.records.model import Workload
from tuner.records.outcome import Components, Timing
from tuner.records.protocol import Point, Standing
from tuner.records.ranks import Draw
from tuner.timing import measure
from tuner.timing.measure import Clock, StoppingRule
from tuner.worker.bench import Bench
from tuner.worker.calls import PipelineCalls
from tuner.worker.timing import Timer, median_parts, of_one_device
from tuner.worker.weights import no_weights


class DeviceClock(Clock):
    """The clock of a GPU, which is simulated."""

    is_device_clock = True


class SlowCalls:
    """A pipeline whose calls take 1 s and 0.1 s for each step, by a clock of its own."""

    fixed_s = 1.0
    step_s = 0.1

    def __init__(self) -> None:
        self.made: list[int] = []
        self.prior_steps = 0

    def timer(self, monkeypatch: pytest.MonkeyPatch, **build: Any) -> Timer:
        channel = make_channel()
        job: Any = SimpleNamespace(
            is_baseline=False, awaits_reference=False,
            environment=environment.detect("cpu"), reference=None, model=None, build=build,
            workload=Workload(prompts=("a",), seeds=(0,)), allowance_s=0.0, points=(), standing=None, sweep_s=None,
        )  # fmt: skip
        log = SimpleNamespace(read=lambda: SimpleNamespace(unique_graphs=0, recompiles=()))
        tracer: Any = SimpleNamespace(profiled=False, compile_log=log, graph_count=lambda: 0)
        calls = PipelineCalls(None, job, channel, DeviceClock())
        monkeypatch.setattr(calls, "user_call", lambda point: lambda: self.made.append(point.steps))
        monkeypatch.setattr(measure, "time_call", self.time_call)
        monkeypatch.setattr("tuner.worker.timing.time_call", self.time_call)
        monkeypatch.setattr("tuner.worker.timing.time_components", self.components)
        monkeypatch.setattr("tuner.trace.findings.recompiles_between", lambda *_, **__: [])
        timer = Timer(calls, tracer, None, no_weights(job))
        timer.cuda = True
        for name in ("_empty_cache", "_reset_peak_memory", "_monitor"):
            monkeypatch.setattr(timer, name, lambda: None)
        monkeypatch.setattr(timer, "_peak_memory", lambda: Memory(peak_bytes=1, reserved_bytes=None))
        return timer

    def time_call(self, call: Any, clock: Any) -> tuple[float, float]:
        call()
        seconds = self.fixed_s + self.step_s * self.made[-1]
        return seconds, seconds

    def components(self, call: Any, *_: Any) -> Components:
        call()
        steps = self.made[-1]
        between_steps_s = 0.01 * (steps - 1)  # a scheduler takes 10 ms after each step
        denoiser_s = (self.step_s - 0.01) * steps
        return Components(
            total_s=1 + self.step_s * steps, text_encoders_s=0.2, denoiser_s=denoiser_s, vae_s=0.5,
            rest_s=0.31 + between_steps_s, denoiser_calls=steps + self.prior_steps, between_steps_s=between_steps_s,
        )  # fmt: skip


def a_point(steps: int, **more: Any) -> Point:
    return Point(index=0, folder="", steps=steps, batch=1, **more)


def test_a_slow_call_is_composed_of_calls_with_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowCalls()
    timer = slow.timer(monkeypatch)
    assert timer.short(a_point(28)).steps == 4
    timer.warm_up(a_point(28))
    slow.made.clear()
    timing, _ = timer.time(a_point(28))
    assert timing.latency_s.value == pytest.approx(3.8)
    assert timing.predicted_from == (9,)
    assert set(slow.made) == {9}
    assert len(slow.made) == 4, "one call to warm up, and three that are timed with their parts"
    assert timing.components is not None
    assert (timing.components.denoiser_s, timing.components.vae_s) == (pytest.approx(2.52), 0.5)
    assert (timing.components.between_steps_s, timing.components.rest_s) == (pytest.approx(0.27), pytest.approx(0.58))
    assert timing.components.total_s == pytest.approx(3.8)
    slow.made.clear()
    assert timer.time(a_point(20))[0].latency_s.value == pytest.approx(3.0)
    assert slow.made == [], "other step counts need no call of their own"


@pytest.mark.parametrize(
    ("step_s", "steps"), [(0.1, 9), (0.02, 12), (1.0, 4)], ids=["3 s of steps and more", "at most 12", "at least 4"]
)
def test_slow_steps_ask_for_fewer_of_them(monkeypatch: pytest.MonkeyPatch, step_s: float, steps: int) -> None:
    """As many as take three seconds by the warm-up's calls of four steps, of which one second is fixed here."""
    slow = SlowCalls()
    slow.step_s = step_s
    timer = slow.timer(monkeypatch)
    timer.warm_up(a_point(50))
    slow.made.clear()
    timing, _ = timer.time(a_point(50))
    assert (timing.predicted_from, set(slow.made)) == ((steps,), {steps})
    assert timing.latency_s.value == pytest.approx(1 + 50 * step_s)


def test_the_parts_of_a_stalled_call_do_not_count() -> None:
    calls_s = (2.0, 9.0, 2.1)
    parts = [Components(total_s=s, text_encoders_s=None, denoiser_s=s, vae_s=None, rest_s=0.0) for s in calls_s]
    assert median_parts(parts).denoiser_s == 2.1


@pytest.mark.parametrize("devices", [1, 2])
def test_the_error_of_a_call_on_several_devices_is_that_of_the_job(
    monkeypatch: pytest.MonkeyPatch, devices: int
) -> None:
    timer = SlowCalls().timer(monkeypatch)
    monkeypatch.setattr(timer.calls.ranks, "others", [SimpleNamespace(commands=1)] * (devices - 1))
    monkeypatch.setattr("tuner.worker.ranks.send_line", lambda *_: None)
    timer.job.points = (a_point(4), a_point(3))

    def fail(point: Point) -> Any:
        with timer.calls.ranks.drawing(Draw(indices=(0,), steps=point.steps, batch=1, output_type="pil")):
            raise MemoryError(f"at {point.steps} steps")

    monkeypatch.setattr(timer, "time", fail)
    if devices == 1:
        timer.time_before_trace()
        assert str(timer.errors[0]) == "at 3 steps", "the others are tried"
    else:
        with pytest.raises(MemoryError, match="at 4 steps"):
            timer.time_before_trace()


def test_what_is_read_of_one_of_several_devices_is_told() -> None:
    found = of_one_device(GpuUse(energy_j=Estimate(value=1.0, low=1.0, high=1.0)), 2)
    assert found is not None and found.energy_j is None
    assert [reason.partition(":")[0] for reason in found.unavailable_reasons] == [
        "energy", "throttling and other users",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("point", "build"),
    [
        pytest.param(a_point(28, whole=True), {}, id="a repetition"),
        pytest.param(a_point(10), {}, id="few steps"),
        pytest.param(a_point(28), {"cache.kind": "first-block"}, id="steps that differ"),
    ],
)
def test_other_calls_are_made_whole(monkeypatch: pytest.MonkeyPatch, point: Point, build: dict[str, Any]) -> None:
    slow = SlowCalls()
    timer = slow.timer(monkeypatch, **build)
    timer.warm_up(point)
    slow.made.clear()
    timing, _ = timer.time(point)
    assert timing.predicted_from is None
    assert set(slow.made) == {point.steps}
    assert len(slow.made) <= 5


@pytest.mark.parametrize(("durations", "samples"), [([5.0, 5.001, 5.0005], 3), ([1.5, 1.51, 1.49, 1.5, 1.52], 5)])
def test_slow_calls_take_few_samples(monkeypatch: pytest.MonkeyPatch, durations: list[float], samples: int) -> None:
    seconds = iter(durations * 3)
    monkeypatch.setattr(measure, "time_call", lambda *_: (taken := next(seconds), taken))
    timing = measure.measure(lambda: None, DeviceClock(), batch=1, rule=StoppingRule(1e9 if samples == 5 else 0.0))
    assert timing.samples >= samples
    assert timing.latency_s.low <= min(durations[:3], key=lambda taken: abs(taken - timing.latency_s.value))


def test_a_cascade_is_timed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowCalls()
    slow.prior_steps = 20
    timer = slow.timer(monkeypatch)
    timer.warm_up(a_point(28))
    timing, _ = timer.time(a_point(28))
    assert (timing.predicted_from, timing.samples) == (None, 3)


def test_quick_calls_are_made_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = SlowCalls()
    monkeypatch.setattr(quick, "time_call", lambda call, _: (call(), 0.1, 0.1)[1:])
    timer = quick.timer(monkeypatch)
    timer.warm_up(a_point(28))
    quick.made.clear()
    assert timer.time(a_point(28))[0].predicted_from is None
    assert set(quick.made) == {28}


def test_calls_of_a_cpu_are_made_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowCalls()
    timer = slow.timer(monkeypatch)
    timer.cuda = False
    timer.calls.clock = Clock()
    timer.warm_up(a_point(28))
    slow.made.clear()
    timing, _ = timer.time(a_point(28))
    assert (timing.predicted_from, timing.samples) == (None, 6)
    assert set(slow.made) == {28}


@pytest.mark.parametrize(("worth_s", "is_dominated"), [(3.0, True), (4.0, False), (None, False)])
def test_slow_calls_are_not_judged_where_a_quicker_one_is_as_good(
    monkeypatch: pytest.MonkeyPatch, worth_s: float | None, is_dominated: bool
) -> None:
    """A call takes 3.8 s."""
    bench, point = a_bench(monkeypatch, a_point(28, worth_s=worth_s))
    assert bench.measure(point).is_dominated is is_dominated
    assert bench.judged == ([] if is_dominated else [point])


@pytest.mark.parametrize(
    ("sweep_s", "points", "left_out"),
    [
        pytest.param(
            50.0, [a_point(28), a_point(20), a_point(14)], [False, False, True], id="16 calls of 3 s, of 2.4 s"
        ),
        pytest.param(2.0, [a_point(28), a_point(20)], [False, True], id="little time"),
        pytest.param(None, [a_point(28), a_point(20)], [False, False], id="all the time"),
    ],
)
def test_other_step_counts_of_slow_calls_are_left_out_if_their_images_take_long(
    monkeypatch: pytest.MonkeyPatch, sweep_s: float | None, points: list[Point], left_out: list[bool]
) -> None:
    points = [Point(index=index, folder="", steps=point.steps, batch=1) for index, point in enumerate(points)]
    bench, _ = a_bench(monkeypatch, points[0])
    bench.job = SimpleNamespace(**vars(bench.job) | {"sweep_s": sweep_s, "is_baseline": False})
    bench.timer.job = bench.job
    bench.timer.time(points[0])
    assert [bench.leaves_out(point) for point in points] == left_out


def a_bench(monkeypatch: pytest.MonkeyPatch, point: Point) -> tuple[Any, Point]:
    """A bench whose pipeline is slow, and which remembers what it judges."""
    timer = SlowCalls().timer(monkeypatch)
    timer.job.workload = Workload(prompts=("a",) * 64, seeds=tuple(range(64)))
    timer.warm_up(point)
    bench = Bench(timer.job, timer.calls.channel, no_weights(timer.job))
    bench.calls, bench.timer = timer.calls, timer
    judged: list[Point] = []
    monkeypatch.setattr(bench, "score", lambda point, _: judged.append(point))
    monkeypatch.setattr("tuner.worker.bench.skipped_share", lambda *_: None)
    bench.judged = judged  # type: ignore[attr-defined]
    return bench, point


def timed_in_pair(
    slow: SlowCalls, steps: int, monkeypatch: pytest.MonkeyPatch, *, is_first: bool
) -> tuple[Timing, list[int]]:
    """Time whole calls in a pair. Returns the timing, and after how many calls the other one had its turn."""
    timer = slow.timer(monkeypatch)
    timer.job.standing = Standing(pair="1 0", is_first=is_first, is_brief=True)
    timer.warm_up(a_point(steps))
    slow.made.clear()
    places: list[int] = []
    channel = timer.calls.channel
    monkeypatch.setattr(channel, "take_turn", lambda **_: None)
    monkeypatch.setattr(channel, "end_turn", lambda: places.append(len(slow.made)))
    return timer.time(a_point(steps, whole=True))[0], places


def test_a_slow_call_of_a_pair_takes_two_samples_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowCalls()
    timing, places = timed_in_pair(slow, 28, monkeypatch, is_first=True)
    assert (slow.made, timing.samples) == ([28, 28], 2)
    assert places == [1], "the other's two calls lie between them"


def test_a_quick_call_of_a_pair_with_slow_ones_takes_four_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowCalls()
    slow.fixed_s = 0.5
    timing, places = timed_in_pair(slow, 1, monkeypatch, is_first=False)
    assert timing.latency_s.value < measure.SLOW_CALL_S and timing.samples == 4
    assert (len(slow.made), places) == (6, [3]), "the first call, and the first after the other's, do not count"


def test_two_samples_that_differ_ask_for_a_third_which_shows_the_stalled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([5.0, 12.0, 5.0, 5.0, 5.0])
    monkeypatch.setattr(measure, "time_call", lambda *_: (taken := next(seconds), taken))
    rule = StoppingRule(0.0, measure.SEARCH_HALF_WIDTH, measure.MIN_PAIRED_SAMPLES)
    timing = measure.measure(lambda: None, DeviceClock(), batch=1, rule=rule)
    assert (timing.latency_s.value, timing.stalled_calls) == (5.0, 1)


@pytest.mark.parametrize(("step_s", "samples"), [(0.4, 2), (0.1, 4)], ids=["17 s", "5 s: one to warm up, three"])
def test_two_long_calls_are_enough_and_need_no_warm_up(
    monkeypatch: pytest.MonkeyPatch, step_s: float, samples: int
) -> None:
    slow = SlowCalls()
    slow.step_s = step_s
    timer = slow.timer(monkeypatch)
    timer.warm_up(a_point(40))
    slow.made.clear()
    timing, _ = timer.time(a_point(40, whole=True))
    assert timing.predicted_from is None
    assert len(slow.made) == samples


def test_a_long_call_that_was_disturbed_asks_for_a_third(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([64.0, 66.0, 64.0])
    monkeypatch.setattr(measure, "time_call", lambda *_: (taken := next(seconds), taken))
    rule = StoppingRule(0.0, measure.LONG_HALF_WIDTH, measure.MIN_PAIRED_SAMPLES)
    assert measure.measure(lambda: None, DeviceClock(), batch=1, rule=rule).samples == 3
    seconds = iter([64.0, 64.4])
    assert measure.measure(lambda: None, DeviceClock(), batch=1, rule=rule).samples == 2

"""Prediction: two measured step counts tell every other, with an interval that covers, where the steps are alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from channels import make_channel
from forked import ForkedWorkers

from tuner.hardware import environment
from tuner.model import pipeline
from tuner.records.codec import Estimate, Value, decode, encode
from tuner.records.machine import Memory
from tuner.records.model import Workload
from tuner.records.outcome import StepCost, Timing
from tuner.records.protocol import Job, Point, PointDone
from tuner.space import reader
from tuner.space.candidates import build_values
from tuner.timing import prediction
from tuner.timing.measure import Clock, StoppingRule, measure, warm_up
from tuner.worker.bench import Bench
from tuner.worker.calls import PipelineCalls
from tuner.worker.timing import Timer
from tuner.worker.weights import no_weights

FIXED_S, PER_STEP_S = 0.3, 0.17


def estimate(value: float, error: float = 1e-3) -> Estimate:
    """A measured value with this standard error."""
    half = prediction.Z_95 * error
    return Estimate(value=value, low=value - half, high=value + half)


def exactly(steps: int) -> Estimate:
    return estimate(FIXED_S + PER_STEP_S * steps)


def half(estimate: Estimate) -> float:
    return (estimate.high - estimate.low) / 2


def test_two_step_counts_tell_the_fixed_cost_and_that_of_a_step() -> None:
    cost = prediction.fit({4: exactly(4), 28: exactly(28)})
    assert cost.fixed_s.value == pytest.approx(FIXED_S)
    assert cost.per_step_s.value == pytest.approx(PER_STEP_S)
    assert cost.per_step_s.high - cost.per_step_s.value == pytest.approx(1.96e-3 * 2**0.5 / 24, rel=1e-3)
    assert cost.measured_at == (4, 28)
    for steps in (1, 4, 10, 28, 50):
        assert prediction.predict(cost, steps).value == pytest.approx(FIXED_S + PER_STEP_S * steps)


def test_what_was_measured_is_predicted_as_it_was_and_between_it_is_surer_than_beyond() -> None:
    cost = prediction.fit({4: estimate(1.0, 0.01), 28: estimate(5.0, 0.03)})
    assert half(prediction.predict(cost, 4)) == pytest.approx(1.96 * 0.01, rel=1e-3)
    assert half(prediction.predict(cost, 28)) == pytest.approx(1.96 * 0.03, rel=1e-3)
    assert half(prediction.predict(cost, 14)) < half(prediction.predict(cost, 28)) < half(prediction.predict(cost, 50))


@pytest.mark.parametrize("measured", [(6, 28), (6, 14, 28), (4, 8, 16, 32)])
def test_the_interval_of_a_prediction_covers_it(measured: tuple[int, ...]) -> None:
    random, repeats, covered = np.random.default_rng(len(measured)), 2000, 0
    for _ in range(repeats):
        noisy = {n: estimate(FIXED_S + PER_STEP_S * n + 0.01 * random.normal(), 0.01) for n in measured}
        predicted = prediction.predict(prediction.fit(noisy), 20)
        covered += predicted.low <= FIXED_S + PER_STEP_S * 20 <= predicted.high
    assert covered / repeats >= 0.95 - 3 * (0.95 * 0.05 / repeats) ** 0.5


def test_what_does_not_lie_on_a_line_is_predicted_with_less_confidence() -> None:
    bent = {4: exactly(4), 14: estimate(FIXED_S + PER_STEP_S * 14 + 0.2), 28: exactly(28)}
    straight = prediction.fit({steps: exactly(steps) for steps in bent})
    predicted = prediction.predict(prediction.fit(bent), 20)
    assert half(predicted) > 20 * half(prediction.predict(straight, 20))
    assert prediction.agrees(predicted, exactly(20))


def test_a_timing_without_any_spread_is_not_taken_for_certain() -> None:
    exact = {n: Estimate(value=v, low=v, high=v) for n, v in ((2, 1.0), (4, 2.0), (8, 4.01))}
    predicted = prediction.predict(prediction.fit(exact), 6)
    assert predicted.low < 3.0 < predicted.high


def test_the_fit_solves_the_weighted_normal_equations() -> None:
    random = np.random.default_rng(0)
    for count in (2, 3, 6):
        steps = np.sort(random.choice(np.arange(1, 60), count, replace=False))
        errors = 0.01 * (1 + random.random(count))
        seconds = FIXED_S + PER_STEP_S * steps + errors * random.normal(size=count)
        cost = prediction.fit({int(n): estimate(s, e) for n, s, e in zip(steps, seconds, errors, strict=True)})
        design = np.stack([np.ones(count), steps], axis=1) / errors[:, None]
        covariance = np.linalg.inv(design.T @ design)
        line = covariance @ design.T @ (seconds / errors)
        misfit = ((seconds / errors - design @ line) ** 2).sum()
        covariance *= max(1.0, misfit / max(count - 2, 1))
        assert (cost.fixed_s.value, cost.per_step_s.value) == pytest.approx(line, rel=1e-9)
        variances = [(half(part) / prediction.Z_95) ** 2 for part in (cost.fixed_s, cost.per_step_s)]
        assert variances == pytest.approx(np.diag(covariance), rel=1e-8)
        assert cost.covariance_s2 == pytest.approx(covariance[0, 1], rel=1e-8)


@pytest.mark.parametrize("measured", [{}, {4: exactly(4)}])
def test_one_step_count_tells_nothing_of_others(measured: dict[int, Estimate]) -> None:
    with pytest.raises(ValueError, match="two step counts"):
        prediction.fit(measured)


def test_a_predicted_timing_says_what_it_is() -> None:
    cost = decode(encode(prediction.fit({4: exactly(4), 28: exactly(28)})), StepCost, "test")
    timing = prediction.predicted_timing(cost, steps=10, batch=4)
    assert (timing.stopped, timing.samples, timing.predicted_from) == ("predicted", 0, (4, 28))
    assert timing.images_per_s == pytest.approx(4 / 2.0)
    assert timing.gpu is None


def test_a_prediction_is_checked_against_a_measurement() -> None:
    predicted = prediction.predict(prediction.fit({4: exactly(4), 28: exactly(28)}), 14)
    assert prediction.agrees(predicted, exactly(14))
    off = estimate(exactly(14).value * 1.01)
    assert not prediction.agrees(predicted, off)
    assert prediction.agrees(predicted, off, spread=0.004), "two processes differ by as much"


@pytest.mark.alone
def test_real_calls_are_predicted() -> None:
    def timed(steps: int) -> Estimate:
        def call() -> None:
            for _ in range(steps):
                time.sleep(0.002)
            time.sleep(0.01)

        warm_up(call, Clock(), lambda: 0)
        return measure(call, Clock(), batch=1, rule=StoppingRule(0.3)).latency_s

    cost = prediction.fit({2: timed(2), 16: timed(16)})
    assert prediction.predict(cost, 8).value == pytest.approx(timed(8).value, rel=0.25)
    assert cost.per_step_s.value == pytest.approx(0.002, rel=0.3)


@pytest.fixture
def measured(tmp_path: Path, tiny_pipeline: Path, forked: ForkedWorkers) -> Callable[..., list[PointDone]]:
    """What a real worker says of the tiny pipeline at 2, 12 and 6 steps, the last of which it may predict."""

    def run(**build: Value) -> list[PointDone]:
        here = environment.detect("cpu")
        model, kind = pipeline.resolve(str(tiny_pipeline), None, None)
        space = reader.load(Path(__file__).parent / "faults" / "space.yaml", kind, here)
        different = {name.replace("__", "."): value for name, value in build.items()}
        points = [
            Point(index=index, folder="", steps=steps, batch=1, score=False, predict=index > 0)
            for index, steps in enumerate((2, 12, 6))
        ]
        job = Job(
            model=model, environment=here, workload=space.workload, build=build_values(space.candidate(different)),
            points=tuple(points), allowance_s=0.3, trace=False,
        )  # fmt: skip
        received = forked.run(job, tmp_path / "trial")
        done = [message for message in received if isinstance(message, PointDone)]
        assert len(done) == 3, received[-1]
        return done

    return run


@pytest.mark.alone
def test_a_worker_predicts_from_two_points_and_measures_without_them(
    measured: Callable[..., list[PointDone]],
) -> None:
    first, second, third = (point.timing for point in measured())
    assert first.predicted_from is second.predicted_from is None, "there is nothing to predict the second from"
    assert third.predicted_from == (2, 12)
    assert first.latency_s.value < third.latency_s.value < second.latency_s.value
    assert third.components is None
    for timing in (first, second):
        assert timing.warm_up is not None
        assert timing.components is not None
        assert timing.components.denoiser_s
        assert (timing.gpu, timing.device_s) == (None, None), "on a CPU what needs a GPU is absent"


def test_a_worker_measures_what_its_images_contradict(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(taking_s: float) -> Timing:
        """What a bench says of a point that it predicts at 1 s, when each call that draws images takes so long."""
        channel = make_channel()
        job: Any = SimpleNamespace(
            environment=environment.detect("cpu"),
            reference=None,
            is_baseline=False,
            awaits_reference=False,
            model=None,
            workload=Workload(prompts=("a",), seeds=(0,)),
        )
        bench = Bench(job, channel, no_weights(job))
        predicted = prediction.predicted_timing(prediction.fit({2: estimate(0.5), 12: estimate(3.0)}), 4, 1)
        memory: Any = Memory(peak_bytes=1, reserved_bytes=None)
        measured = msgspec.structs.replace(predicted, stopped="interval within target", predicted_from=None)
        calls = bench.calls = PipelineCalls(None, job, channel, bench.clock)
        tracer: Any = SimpleNamespace(profiled=False)
        bench.timer = Timer(calls, tracer, None, bench.weights)
        monkeypatch.setattr(bench.timer, "predict", lambda _: (predicted, memory))
        monkeypatch.setattr(bench.timer, "_time", lambda _: (measured, memory))
        monkeypatch.setattr(bench, "score", lambda *_: calls.generation_s.extend([taking_s] * 6))
        return bench.measure(Point(index=0, folder="", steps=4, batch=1, score=False)).timing

    held = drawn(1.004)
    assert held.predicted_from == (2, 12)
    assert held.generation_s is not None
    assert held.generation_s.value == 1.004
    assert drawn(1.2).predicted_from is None


def test_a_predicted_latency_meets_a_target_or_does_not() -> None:
    cost = prediction.fit({4: exactly(4), 28: exactly(28)})
    shares = [prediction.predicted_timing(cost, 10, 1, target_s).within_target for target_s in (None, 1.9, 2.1)]
    assert shares == [None, 0.0, 1.0]


def test_a_small_difference_between_images_and_prediction_is_no_contradiction() -> None:
    sharp = estimate(1.0, 1e-6)
    assert not prediction.is_contradicted(sharp, estimate(1.009, 1e-6))
    assert prediction.is_contradicted(sharp, estimate(1.011, 1e-6))
    assert not prediction.is_contradicted(estimate(1.0, 0.1), estimate(1.1, 1e-6)), "its interval covers that"


@pytest.mark.alone
def test_a_worker_measures_a_cache_at_every_step_count(measured: Callable[..., list[PointDone]]) -> None:
    points = measured(cache__kind="first-block", cache__threshold=0.1)
    assert all(point.timing.predicted_from is None and point.timing.samples for point in points)

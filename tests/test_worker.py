"""The worker's own arithmetic, on a pipeline that is made up; the real ones are in tests/faults."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tuner import worker
from tuner.record import Estimate, Memory, Point, Timing
from tuner.trace import dynamo


@pytest.mark.parametrize(("first_s", "compile_s"), [(0.5, 0.4), (0.0, 0.0)])
def test_compiling_is_what_the_first_call_takes_longer_than_a_warm_one_of_the_same_point(
    monkeypatch: pytest.MonkeyPatch, first_s: float, compile_s: float
) -> None:
    seconds = iter([first_s, *[0.1] * 20])
    log = SimpleNamespace(read=lambda: SimpleNamespace(unique_graphs=0))
    monkeypatch.setattr(worker.pipeline, "load", lambda *_: None)
    monkeypatch.setattr(worker, "apply_knobs", lambda *_: {})
    monkeypatch.setattr(dynamo, "start_compile_log", lambda: log)
    monkeypatch.setattr(worker.Bench, "caller", lambda *_: lambda: time.sleep(next(seconds)))
    job: Any = SimpleNamespace(
        environment=SimpleNamespace(device="cpu"), reference=None, points=(None,), model=None, trace=False, probe=False,
        build={"precision.dtype": "float32"},
    )  # fmt: skip
    channel: Any = SimpleNamespace(enter=lambda *_: None)
    build = worker.Bench(job, channel).build(Path())
    assert build.compile_s == pytest.approx(compile_s, abs=0.05)
    assert build.first_call_s == pytest.approx(first_s, abs=0.05)


def test_on_a_gpu_what_is_measured_is_timed_before_the_profiler_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int | None]] = []
    log = SimpleNamespace(read=lambda: SimpleNamespace(unique_graphs=0))
    monkeypatch.setattr(worker.pipeline, "load", lambda *_: None)
    monkeypatch.setattr(worker, "apply_knobs", lambda *_: {})
    monkeypatch.setattr(worker.telemetry.Nvml, "of_torch", lambda: None)
    monkeypatch.setattr(dynamo, "start_compile_log", lambda: log)
    monkeypatch.setattr(worker.Bench, "caller", lambda *_: lambda: None)
    monkeypatch.setattr(worker.Bench, "trace", lambda *_: (None, None))
    monkeypatch.setattr(worker.Bench, "quality", lambda *_: None)
    points = tuple(Point(index=index, folder="", steps=steps, batch=1, predict=steps == 10)
                   for index, steps in enumerate((28, 6, 10)))  # fmt: skip
    job: Any = SimpleNamespace(
        environment=SimpleNamespace(device="cuda"), points=points, model=None, trace=True, probe=False,
        build={"precision.dtype": "bfloat16"}, workload=SimpleNamespace(latency_target_s=None),
    )  # fmt: skip
    channel: Any = SimpleNamespace(enter=lambda stage, index=None: seen.append((stage, index)))
    bench = worker.Bench(job, channel)
    bench.clock = worker.Clock()

    def timed(point: Point) -> tuple[Timing, Memory]:
        channel.enter("time", point.index)
        if point.steps == 6:
            raise worker.Throttled("held back")
        latency_s = Estimate(value=point.steps, low=point.steps, high=point.steps)
        timing = Timing(latency_s=latency_s, samples=6, images_per_s=1.0, stopped="time allowance spent")
        bench.timings[point.steps, 1] = timing
        bench.memories[1] = Memory(peak_bytes=1, reserved_bytes=None)
        return timing, bench.memories[1]

    monkeypatch.setattr(bench, "timed", timed)
    bench.build(Path())
    assert bench.measure(points[0]).timing.latency_s.value == 28
    with pytest.raises(worker.Throttled):
        bench.measure(points[1])
    assert bench.measure(points[2]).timing.latency_s.value == 10
    before = seen[: seen.index(("trace", None))]
    assert [index for stage, index in before if stage == "time"] == [0, 1, 2], "with one known nothing is predicted"
    assert [index for stage, index in seen[len(before) :] if stage == "time"] == [1], "which is said again to fail"

"""The worker's own arithmetic, on a pipeline that is made up; the real ones are in tests/faults."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from channels import make_channel
from PIL import Image

from tuner.hardware.environment import detect
from tuner.hardware.telemetry import OwnUse
from tuner.knobs import NoEffect, baseline
from tuner.records.codec import Estimate
from tuner.records.gate import Allowance, Finding, FindingKind, GatePolicy, Verdict
from tuner.records.machine import Memory
from tuner.records.model import Workload
from tuner.records.outcome import Build, Components, Failure, Timing, WarmUp
from tuner.records.protocol import CallTimed, ImageSize, Point, PointFailed, PointLeftOut
from tuner.records.quality import Quality
from tuner.timing.measure import Throttled
from tuner.trace import dynamo
from tuner.worker import __main__, calls, timing
from tuner.worker import bench as worker
from tuner.worker.calls import PipelineCalls, image_size
from tuner.worker.ranks import Ranks
from tuner.worker.timing import Timer
from tuner.worker.tracing import Tracer, rejects_graph_breaks


@pytest.fixture(autouse=True)
def _pipelines_that_take_no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "effective_arguments", lambda *_: {})


def weights_of(pipe: Any) -> Any:
    """Weights of which a worker loads this pipeline."""
    return SimpleNamespace(load=lambda _: pipe, own_use=lambda _: OwnUse(), lent_bytes=lambda _: 0)


WORKLOAD = Workload(prompts=("a",), seeds=(0,))
POINT = Point(index=0, folder="", steps=4, batch=1)


def finding(kind: FindingKind) -> Finding:
    return Finding(
        kind=kind, count=3, count_per_step=1, idle_ms_per_step=0.5, operator="aten::item", reason="planted",
        source="model.py:7",
    )  # fmt: skip


def test_the_size_of_what_a_call_generates_is_known_of_images_and_videos() -> None:
    frame = Image.new("RGB", (48, 32))
    assert image_size([frame, frame]) == ImageSize(width=48, height=32)
    assert image_size([[frame] * 9]) == ImageSize(width=48, height=32, frames=9)
    assert [image_size(other) for other in (None, [], [[]], "x", ["x"])] == [None] * 5


@pytest.mark.parametrize(
    ("build", "first_s", "stage", "compile_s"),
    [
        ({"compile.scope": "full"}, 0.5, "compile", 0.4),
        ({"compile.scope": "regional"}, 0.0, "compile", 0.0),
        ({"compile.scope": "none", "compile.vae": True}, 0.5, "compile", 0.4),
        ({"compile.scope": "none", "compile.text_encoders": True}, 0.5, "compile", 0.4),
        ({"compile.scope": "none", "compile.vae": False}, 0.5, "first call", 0.0),
        ({"graphs.denoiser": True, "cache.kind": "teacache"}, 0.5, "first call", 0.0),
        ({}, 0.5, "first call", 0.0),
    ],
)
def test_the_first_call_is_called_compiling_only_where_something_is_compiled(
    monkeypatch: pytest.MonkeyPatch, build: dict[str, Any], first_s: float, stage: str, compile_s: float
) -> None:
    seconds = iter([first_s, *[0.1] * 20])
    log = SimpleNamespace(read=lambda: SimpleNamespace(unique_graphs=0))
    monkeypatch.setattr(worker, "apply_knobs", lambda *_: {})
    monkeypatch.setattr(dynamo, "start_compile_log", lambda: log)
    monkeypatch.setattr(PipelineCalls, "user_call", lambda *_: lambda: time.sleep(next(seconds)))
    job: Any = SimpleNamespace(
        environment=SimpleNamespace(device="cpu"), reference=None, points=(POINT,), workload=WORKLOAD,
        model=None, trace=False, probe=False,
        is_baseline=False, build={"precision.dtype": "float32", **build},
    )  # fmt: skip
    stages: list[str] = []
    channel = make_channel(enter=lambda name, *_: stages.append(name))
    found = worker.Bench(job, channel, weights_of(None)).build(Path())
    assert stages == ["load", "apply", stage, "warm up"]
    assert found.compile_s == pytest.approx(compile_s, abs=0.05)
    assert found.first_call_s == pytest.approx(first_s, abs=0.05)


@pytest.mark.parametrize(
    ("steps", "made", "fixed_s"), [(4, [4, 2], 0.5), (5, [5, 2], 0.5), (1, [1], 0.0)], ids=["even", "odd", "one step"]
)
def test_two_calls_of_the_baseline_tell_what_of_it_is_fixed(
    monkeypatch: pytest.MonkeyPatch, steps: int, made: list[int], fixed_s: float
) -> None:
    """A call takes 0.5 s and 0.1 s for each step."""
    called: list[int] = []
    monkeypatch.setattr(PipelineCalls, "user_call", lambda _, point: lambda: called.append(point.steps))
    monkeypatch.setattr(worker, "time_call", lambda call, _: (call(), 0.5 + 0.1 * called[-1])[1:] * 2)
    job: Any = SimpleNamespace(environment=SimpleNamespace(device="cpu"), is_baseline=True, workload=WORKLOAD)
    sent: list[Any] = []
    bench = worker.Bench(job, cast(Any, SimpleNamespace(send=sent.append)), weights_of(None))
    bench.calls = PipelineCalls(None, job, bench.channel, bench.clock)
    assert bench.report_calls(msgspec.structs.replace(POINT, steps=steps)) == pytest.approx(fixed_s)
    assert called == made
    (message,) = sent
    assert (message.steps, message.seconds) == (steps, pytest.approx(0.5 + 0.1 * steps))
    assert message.fixed_s == pytest.approx(fixed_s)


def test_on_a_gpu_what_is_measured_is_timed_before_the_profiler_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int | None]] = []
    log = SimpleNamespace(read=lambda: SimpleNamespace(unique_graphs=0))
    monkeypatch.setattr(worker, "apply_knobs", lambda *_: {})
    monkeypatch.setattr(worker.telemetry.Nvml, "for_torch", lambda *_: None)
    monkeypatch.setattr(dynamo, "start_compile_log", lambda: log)
    monkeypatch.setattr(PipelineCalls, "user_call", lambda *_: lambda: None)
    monkeypatch.setattr(Tracer, "trace", lambda *_, **__: (None, None))
    monkeypatch.setattr(worker.Bench, "score", lambda *_: None)
    points = tuple(Point(index=index, folder="", steps=steps, batch=1, predict=steps == 10)
                   for index, steps in enumerate((28, 6, 10)))  # fmt: skip
    job: Any = SimpleNamespace(
        environment=SimpleNamespace(device="cuda"), points=points, model=None, trace=True, probe=False,
        is_baseline=True, awaits_reference=False, build={"precision.dtype": "bfloat16"}, workload=WORKLOAD,
    )  # fmt: skip
    sent: list[Any] = []
    channel = make_channel(enter=lambda stage, index=None: seen.append((stage, index)), send=sent.append)
    bench = worker.Bench(job, channel, weights_of(None))
    bench.clock = worker.Clock()

    def time_point(timer: Timer, point: Point) -> tuple[Timing, Memory]:
        channel.enter("time", point.index)
        if point.steps == 6:
            raise Throttled("held back")
        latency_s = Estimate(value=point.steps, low=point.steps, high=point.steps)
        parts = Components(total_s=29.0, text_encoders_s=None, denoiser_s=27.0, vae_s=None, rest_s=2.0)
        timing = Timing(
            latency_s=latency_s, samples=6, images_per_s=1.0, stopped="time allowance spent", components=parts
        )
        timer.timings[point.steps, 1] = timing
        timer.memories[1] = Memory(peak_bytes=1, reserved_bytes=None)
        return timing, timer.memories[1]

    monkeypatch.setattr(Timer, "time", time_point)
    bench.build(Path())
    assert sent[-1] == CallTimed(steps=28, seconds=28.0, fixed_s=2.0), "the plan follows what was timed"
    assert bench.measure(points[0]).timing.latency_s.value == 28
    with pytest.raises(Throttled):
        bench.measure(points[1])
    assert bench.measure(points[2]).timing.latency_s.value == 10
    before = seen[: seen.index(("trace", None))]
    assert [index for stage, index in before if stage == "time"] == [0, 1, 2], "with one known nothing is predicted"
    assert [index for stage, index in seen[len(before) :] if stage == "time"] == [1], "which is said again to fail"


@pytest.mark.parametrize("case", ["rejected", "pieces fail", "elsewhere"])
def test_where_a_break_rejects_inductor_is_asked_only_if_the_pieces_cannot_be_judged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str
) -> None:
    torch = pytest.importorskip("torch")
    asked: list[str] = []
    calls: list[str] = []

    class Breaks(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            x = x + 1
            torch._dynamo.graph_break()
            calls.append("eager")
            if case == "pieces fail" and len(calls) == 1:
                raise RuntimeError("out of memory, operator by operator")
            return x * 2

    def backend(graph: Any, _: Any) -> Any:
        asked.append("inductor")
        return graph.forward

    module = Breaks()
    module.compile(backend=backend)
    pipe = SimpleNamespace(components={"vae" if case == "elsewhere" else "transformer": module})
    stages: list[str] = []
    verdict = Verdict(status="rejected", findings=(finding("graph break"), finding("device sync")))
    monkeypatch.setattr(worker, "apply_knobs", lambda *_: {})
    monkeypatch.setattr(PipelineCalls, "user_call", lambda *_: lambda: module(torch.ones(2)))
    monkeypatch.setattr(PipelineCalls, "run_steps", lambda *_, **__: module(torch.ones(2)))
    monkeypatch.setattr(Tracer, "trace", lambda *_, **__: (None, verdict))
    job: Any = SimpleNamespace(
        environment=SimpleNamespace(device="cpu"), reference=None, points=(POINT,), workload=WORKLOAD,
        model=None, trace=True, probe=False,
        is_baseline=False, gate=GatePolicy(), allowed=(),
        build={"precision.dtype": "float32", "compile.scope": "full"},
    )  # fmt: skip
    channel = make_channel(enter=lambda stage, *_: stages.append(stage), send=lambda _: None)
    build = worker.Bench(job, channel, weights_of(pipe)).build(tmp_path)
    assert build.verdict is not None
    if case == "rejected":
        assert asked == []
        assert [(f.kind, f.idle_ms_per_step) for f in build.verdict.findings] == [("graph break", None)]
        assert "inductor" in build.verdict.skipped[-1]
        assert stages == ["load", "apply", "compile", "trace"]
    else:
        assert "inductor" in asked
        assert build.verdict == verdict
        again = ["compile"] if case == "pieces fail" else []
        assert stages == ["load", "apply", "compile", *again, "warm up", "trace"]


@pytest.mark.parametrize(
    "tolerance",
    [
        {"gate": GatePolicy(count_per_step={"graph break": 1.0})},
        {"gate": GatePolicy(max_idle_ms_per_step=0.5)},
        {"allowed": (Allowance(kind="graph break", count_per_step=1, knob="untouched pipeline"),)},
        {"is_baseline": True},
        {"build": {"graphs.denoiser": True}},
        {"trace": False},
    ],
)
def test_a_break_that_may_be_tolerated_is_compiled_and_measured(tolerance: dict[str, Any]) -> None:
    strict = {"gate": GatePolicy(), "allowed": (), "is_baseline": False, "trace": True, "build": {}}
    environment = SimpleNamespace(device="cpu")
    for settings, rejects in ((strict, True), ({**strict, **tolerance}, False)):
        job: Any = SimpleNamespace(environment=environment, **settings)
        assert rejects_graph_breaks(job) is rejects


@pytest.mark.parametrize(
    ("psnr_db", "skipped", "message"),
    [
        (100.0, None, "cache.kind=teacache: its images are those of the untouched pipeline"),
        (40.0, 0, "cache.kind=teacache: it skipped nothing in 28 steps, as if it were not set"),
        (40.0, 7, None),
        (40.0, None, None),
        (None, 0, None),
    ],
    ids=["same images", "no step", "a quarter of the steps", "not counted", "only a spot check"],
)
def test_a_cache_that_never_acted_while_the_images_were_generated_has_no_effect(
    psnr_db: float | None, skipped: int | None, message: str | None
) -> None:
    pipe, clock = SimpleNamespace(), SimpleNamespace(steps_taken=99, steps_skipped=99)
    clock.count_afresh = lambda: vars(clock).update(steps_taken=0, steps_skipped=0)
    if skipped is not None:
        pipe.tuner_clock = clock

    def score(_: Point) -> Quality | None:
        clock.steps_taken, clock.steps_skipped = 28, skipped or 0
        same = Estimate(value=0.0, low=0.0, high=0.0)
        quality = Quality(metric="ssim", scores=(1.0,), mean=1.0, difference=same, psnr_db=psnr_db, ssim=1.0)
        return quality if psnr_db is not None else None

    job: Any = SimpleNamespace(environment=detect("cpu"), build={"cache.kind": "teacache", "cache.threshold": 0.25})
    bench = worker.Bench(job, cast(Any, None), weights_of(None))
    bench.calls = cast(Any, SimpleNamespace(pipe=pipe, generation_s=[]))
    bench.scoring = cast(Any, SimpleNamespace(score=score))
    point = Point(index=0, folder="", steps=28, batch=1)
    if message is None:
        assert (bench.score(point, 1.0) is None) is (psnr_db is None)
    else:
        with pytest.raises(NoEffect, match=message):
            bench.score(point, 1.0)


def made_up_timer(monkeypatch: pytest.MonkeyPatch, totals_s: Sequence[float]) -> Timer:
    """A timer of no pipeline, whose calls take so long when their parts are timed, the last ones all as long."""
    parts = [
        Components(total_s=total_s, text_encoders_s=None, denoiser_s=None, vae_s=None, rest_s=0.0)
        for total_s in totals_s
    ]
    left = iter(parts)
    log = SimpleNamespace(read=lambda: None)
    monkeypatch.setattr(timing, "warm_up", lambda *_: WarmUp(calls=2, settled=True, last_call_s=0.2))
    monkeypatch.setattr(timing, "time_components", lambda *_: next(left, parts[-1]))
    monkeypatch.setattr("tuner.trace.findings.recompiles_between", lambda *_, **__: [])
    job = SimpleNamespace(
        environment=detect("cpu"),
        build=baseline(detect("cpu")),
        allowance_s=0.0,
        standing=None,
        workload=SimpleNamespace(latency_target_s=None),
    )
    made: Any = SimpleNamespace(
        job=job,
        pipe=None,
        clock=None,
        user_call=lambda _: None,
        channel=make_channel(),
        ranks=Ranks(make_channel()),
        turn=lambda **_: nullcontext(),
    )
    tracer: Any = SimpleNamespace(graph_count=lambda: 0, compile_log=log)
    return Timer(made, tracer, None, weights_of(None))


@pytest.mark.parametrize(
    ("medians_s", "latency_s", "stalled"),
    [((0.2,), 0.2, 0), ((0.39,), 0.39, 0), ((1.1, 0.21), 0.21, 6), ((1.1, 1.2), 1.2, 6)],
    ids=["as warmed up", "slower", "stalled", "slow for good"],
)
def test_calls_that_most_take_twice_as_long_as_when_warmed_up_are_made_again_once(
    monkeypatch: pytest.MonkeyPatch, medians_s: tuple[float, ...], latency_s: float, stalled: int
) -> None:
    measured = iter(medians_s)

    def measure(*_: Any) -> Timing:
        seconds = next(measured)
        latency = Estimate(value=seconds, low=seconds, high=seconds)
        return Timing(latency_s=latency, samples=6, images_per_s=1 / seconds, stopped="time allowance spent")

    monkeypatch.setattr(timing, "measure", measure)
    found, _ = made_up_timer(monkeypatch, [0.2]).time(Point(index=0, folder="", steps=28, batch=1))
    assert (found.latency_s.value, found.stalled_calls, found.samples) == (latency_s, stalled, 6)
    assert next(measured, None) is None


@pytest.mark.parametrize(
    ("totals_s", "total_s"),
    [((0.3,), 0.3), ((4.0, 0.2), 0.2), ((4.0, 3.0, 5.0), 3.0)],
    ids=["undisturbed", "disturbed once", "disturbed each time"],
)
def test_the_parts_of_a_disturbed_call_are_timed_again(
    monkeypatch: pytest.MonkeyPatch, totals_s: tuple[float, ...], total_s: float
) -> None:
    latency = Estimate(value=0.2, low=0.2, high=0.2)
    measured = Timing(latency_s=latency, samples=6, images_per_s=5.0, stopped="time allowance spent")
    monkeypatch.setattr(timing, "measure", lambda *_: measured)
    found, _ = made_up_timer(monkeypatch, totals_s).time(Point(index=0, folder="", steps=28, batch=1))
    assert found.components is not None and found.components.total_s == total_s


class Made:
    """A bench whose points are measured, or raise what `errors` has for their step counts.

    Those of the step counts in `timed` were met when the points were timed.
    """

    scoring = None

    def __init__(self, job: Any, errors: dict[int, Exception], timed: Sequence[int]) -> None:
        self.job = job
        self.errors = errors
        kept = {point.index: errors[point.steps] for point in job.points if point.steps in timed}
        self.timer = SimpleNamespace(errors=kept)

    def build(self, _: Path) -> Build:
        return Build(changes={}, load_s=0.0, apply_s=0.0, first_call_s=0.0, trace=None, verdict=None)

    def leaves_out(self, _: Point) -> bool:
        return False

    def measure(self, point: Point) -> str:
        if point.steps in self.errors:
            raise self.errors[point.steps]
        return "measured"


def sent_by_run(errors: dict[int, Exception], monkeypatch: pytest.MonkeyPatch, timed: Sequence[int] = ()) -> list[Any]:
    """What a worker sends that measures 28, 20, 14 and 6 steps."""
    sent: list[Any] = []
    points = tuple(Point(index=index, folder="", steps=steps, batch=1) for index, steps in enumerate((28, 20, 14, 6)))
    monkeypatch.setattr(__main__, "Bench", lambda job, *_: Made(job, errors, timed))
    failure = Failure(kind="no effect", stage="score", message="")
    channel: Any = SimpleNamespace(send=sent.append, failure=lambda _: failure)
    job: Any = SimpleNamespace(points=points, is_baseline=False)
    __main__.run(job, channel, weights_of(None), cast(Any, None))
    return sent


@pytest.mark.parametrize(("knob", "left_out"), [("cache.kind", [2, 3]), ("guidance.stop", list[int]())])
def test_a_cache_that_skipped_nothing_is_not_tried_with_fewer_steps(
    knob: str, left_out: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 28 steps it skips some, of 20 none, and so none of 14 and 6."""
    sent = sent_by_run({steps: NoEffect("it never acted", knob) for steps in (20, 14, 6)}, monkeypatch)
    assert [message.index for message in sent if isinstance(message, PointLeftOut)] == left_out
    failed = [message.index for message in sent if isinstance(message, PointFailed)]
    assert failed == [index for index in (1, 2, 3) if index not in left_out]


def test_a_step_count_that_runs_out_of_memory_ends_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = sent_by_run({20: MemoryError("40 GiB")}, monkeypatch, timed=[20])
    assert [message.index for message in sent if isinstance(message, PointFailed)] == [1]
    assert sent.count("measured") == 3
    with pytest.raises(MemoryError):
        sent_by_run({28: MemoryError("40 GiB")}, monkeypatch, timed=[28])
    with pytest.raises(MemoryError):
        sent_by_run({20: MemoryError("while images are generated")}, monkeypatch)

"""Build a pipeline once, and measure points on it: load, apply, first call, warm up, trace, gate, time, score."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec

from tuner.hardware import telemetry
from tuner.knobs import apply_knobs, require_effects, watch
from tuner.knobs.cache import skipped_share
from tuner.knobs.compile import compiles
from tuner.knobs.graphs import replays_cuda_graphs
from tuner.quality.panel import SPOT_CHECKED
from tuner.quality.race import MIN_PROMPTS_WITHIN
from tuner.quality.similarity import MAX_PSNR_DB
from tuner.records.outcome import Build, Timing
from tuner.records.protocol import CallTimed, Job, Point, PointDone, PointTimed
from tuner.records.quality import Quality
from tuner.timing import prediction, roofline
from tuner.timing.measure import Clock, CudaClock, time_call
from tuner.worker.calls import PipelineCalls, Stopwatch
from tuner.worker.channel import Channel
from tuner.worker.ranks import Ranks
from tuner.worker.scoring import Scoring
from tuner.worker.timing import Timer, with_steps
from tuner.worker.tracing import Tracer
from tuner.worker.weights import Weights

REPORTED_CALL_S = 15.0
"""From this time on the first call itself is reported. Else the plan waits for the next ones, which tell more."""


class Bench:
    """A pipeline that is built once, and the points that are measured on it."""

    calls: PipelineCalls
    tracer: Tracer
    timer: Timer

    def __init__(self, job: Job, channel: Channel, weights: Weights, ranks: Ranks | None = None) -> None:
        self.job = job
        self.weights = weights
        self.channel = channel
        self.ranks = ranks or Ranks(channel)
        self.cuda = job.environment.device == "cuda"
        self.clock = CudaClock() if self.cuda else Clock()
        self.scoring: Scoring | None = None
        self.sweep_s = 0.0
        """Seconds that the images of other step counts than the first take."""

    def build(self, folder: Path) -> Build:
        """Load the pipeline, apply the knobs, make the first call (which compiles, if anything is compiled), warm up,
        trace and gate. The trace is written to `folder`.

        On a GPU the points are timed before the trace.
        """
        job, first, stopwatch = self.job, self.job.points[0], Stopwatch()

        self.channel.enter("load")
        nvml = telemetry.Nvml.for_torch(self.weights.own_use(job)) if self.cuda else None
        pipe = self.weights.load(job)
        load_s = stopwatch.lap()

        self.channel.enter("apply")
        self.calls = PipelineCalls(pipe, job, self.channel, self.clock, self.ranks)
        self.tracer = Tracer(self.calls)
        self.timer = Timer(self.calls, self.tracer, nvml, self.weights)
        short = self.timer.short(first)
        self.ranks.join(job.environment.device)
        changes = apply_knobs(pipe, job.build, job.environment)
        apply_s = stopwatch.lap()

        is_compiled = compiles(job.build)
        self.channel.enter("compile" if is_compiled else "first call")
        rejection = self.tracer.first_call(short, folder)
        self.clock.synchronize()
        first_call_s = stopwatch.lap()
        if first_call_s >= REPORTED_CALL_S:
            self.report_call(short, first_call_s)
        if rejection is not None:
            return Build(
                changes=changes, load_s=load_s, apply_s=apply_s, first_call_s=first_call_s,
                trace=rejection[0], verdict=rejection[1],
            )  # fmt: skip

        self.channel.enter("warm up")
        fixed_s = self.report_calls(short)
        with self.calls.turn_on_cpu():
            warmed_up = self.timer.warm_up(first)
        assert warmed_up.last_call_s is not None
        self.report_call(short, warmed_up.last_call_s, min(fixed_s, warmed_up.last_call_s))
        compile_s = max(0.0, first_call_s - warmed_up.last_call_s) if is_compiled else 0.0

        trace, verdict = None, None
        if job.trace:
            if self.cuda:
                self.timer.time_before_trace()
                self.report_timing(first)
            self.channel.enter("trace")
            trace, verdict = self.tracer.trace(first, folder, asks_for_graphs=replays_cuda_graphs(job.build))

        limits = None
        if job.probe:
            self.channel.enter("probe")
            steps = partial(self.calls.run_steps, first)
            with self.calls.turn():
                limits = roofline.measure_roofline(
                    steps, pipe, job.environment, first.batch, nvml.state if nvml is not None else None
                )
        return Build(
            changes=changes, load_s=load_s, apply_s=apply_s, first_call_s=first_call_s, compile_s=compile_s,
            trace=trace, verdict=verdict, roofline=limits,
        )  # fmt: skip

    def report_calls(self, point: Point) -> float:
        """Time a call of the baseline, report it, and return what part of it is fixed, by one of half the steps."""
        half = point.steps // 2
        if not self.job.is_baseline:
            return 0.0
        seconds, _ = time_call(self.calls.user_call(point), self.clock)
        half_s = time_call(self.calls.user_call(with_steps(point, half)), self.clock)[0] if half else 0.0
        step_s = (seconds - half_s) / (point.steps - half)
        fixed_s = max(0.0, seconds - point.steps * step_s) if step_s > 0 else 0.0
        self.report_call(point, seconds, fixed_s)
        return fixed_s

    def report_timing(self, point: Point) -> None:
        """Report the baseline's latency that was timed: where the host limits a call, the first ones tell little."""
        if not self.job.is_baseline or point.index in self.timer.errors:
            return
        timed = self.timer.known_timing(point) or self.timer.predict(point)
        parts = timed[0].components if timed is not None else None
        if timed is not None and parts is not None and parts.denoiser_s is not None:
            self.report_call(point, timed[0].latency_s.value, max(0.0, parts.total_s - parts.denoiser_s))

    def report_call(self, point: Point, seconds: float, fixed_s: float = 0.0) -> None:
        """Report how long a call of the baseline took, from which the parent plans the study."""
        if self.job.is_baseline:
            self.channel.send(CallTimed(steps=point.steps, seconds=seconds, fixed_s=fixed_s, size=self.calls.size))

    def leaves_out(self, point: Point) -> bool:
        """Return whether a point is left out: another step count of slow calls whose images take too long."""
        limit_s = self.job.sweep_s
        if point.index == 0 or limit_s is None or not self.timer.is_slow or not point.score:
            return False
        composed = self.timer.predict(point)
        if composed is None:
            return True
        prompts = len(self.job.workload.prompts)
        wanted = SPOT_CHECKED if point.spot_check else prompts if self.job.is_baseline else MIN_PROMPTS_WITHIN
        taken_s = self.sweep_s + -(-min(wanted, prompts) // point.batch) * composed[0].latency_s.value
        if taken_s <= limit_s:
            self.sweep_s = taken_s
        return taken_s > limit_s

    def measure(self, point: Point) -> PointDone:
        """Measure latency and memory, then generate and score the images."""
        timing, memory = self.timer.known_timing(point) or self.timer.predict(point) or self.timer.time(point)
        if point.score and self.job.awaits_reference:
            self.channel.enter("await", point.index)
            self.job = self.channel.await_reference(prediction.scaled(timing.latency_s, 1 / point.batch))
            point = self.job.points[point.index]
        timing = msgspec.structs.replace(timing, devices=self.ranks.count)
        if self.is_dominated(point, timing):
            return PointDone(index=point.index, timing=timing, memory=memory, quality=None, is_dominated=True)
        if self.job.is_baseline and point.index == 0 and self.timer.is_slow:
            self.channel.send(PointTimed(index=point.index, timing=timing, memory=memory))
        self.channel.enter("score", point.index)
        with self.calls.turn_on_cpu():
            quality = self.score(point, timing.latency_s.value)
        timing, memory = self.timer.check_prediction(point, timing, memory)
        timing = msgspec.structs.replace(timing, devices=self.ranks.count)
        share = skipped_share(self.calls.pipe, self.job.build) if point.score else None
        return PointDone(index=point.index, timing=timing, memory=memory, quality=quality, skipped_share=share)

    def is_dominated(self, point: Point, timing: Timing) -> bool:
        """Return whether a quicker configuration loses no quality, so that judging this one would tell nothing."""
        return point.worth_s is not None and timing.latency_s.low > point.worth_s

    def score(self, point: Point, call_s: float) -> Quality | None:
        """Score a point's images, or return None if none were requested or they passed the spot check.

        Raises NoEffect if a knob never acted while they were generated. A spot check's few images do not tell.
        """
        if not point.score:
            return None
        pipe, job = self.calls.pipe, self.job
        self.calls.generation_s.clear()
        watch(pipe, job.build, job.environment)
        if self.scoring is None:
            calls = self.calls
            self.scoring = Scoring(calls.pipe, self.job, calls.generate_images, calls.report_alive, call_s)
        quality = self.scoring.score(point)
        if quality is not None:
            is_same_image = quality.psnr_db is not None and quality.psnr_db >= MAX_PSNR_DB
            require_effects(pipe, job.build, job.environment, is_same_image=is_same_image)
        return quality

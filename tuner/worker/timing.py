"""Time the points of a built pipeline, or predict their latency from other step counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from tuner.hardware import telemetry
from tuner.knobs import require_skipped_steps, uneven_steps, watch
from tuner.quality.device_memory import release_frames
from tuner.records.machine import GpuUse, Memory
from tuner.records.outcome import Components, Timing, WarmUp
from tuner.records.protocol import Point
from tuner.timing import disturbance, prediction
from tuner.timing.components import time_components
from tuner.timing.intervals import MIN_SAMPLES, median_interval
from tuner.timing.measure import (
    LONG_CALL_S,
    LONG_HALF_WIDTH,
    MIN_PAIRED_SAMPLES,
    MIN_QUICK_PAIRED_SAMPLES,
    PAIRED_HALF_WIDTH,
    SEARCH_HALF_WIDTH,
    SLOW_CALL_S,
    SURELY_SLOW_S,
    TARGET_HALF_WIDTH,
    StoppingRule,
    measure,
    time_call,
    warm_up,
)
from tuner.worker import peak
from tuner.worker.blocks import Blocks
from tuner.worker.calls import PipelineCalls
from tuner.worker.failures import CompiledWhileTimed
from tuner.worker.tracing import Tracer
from tuner.worker.weights import Weights

MIN_FOR_PREDICTION = 2
"""Step counts that must be measured to separate the fixed cost of a call from the cost per step."""

MAX_PART_CALLS = 3
"""Calls whose parts are timed, while something disturbs each."""


class Timer:
    """The latencies and the peak memory of a job's points."""

    def __init__(self, calls: PipelineCalls, tracer: Tracer, nvml: telemetry.Nvml | None, weights: Weights) -> None:
        self.calls = calls
        self.tracer = tracer
        self.nvml = nvml
        self.weights = weights
        self.job = calls.job
        self.cuda = calls.job.environment.device == "cuda"
        self.timings: dict[tuple[int, int], Timing] = {}
        """Measured timings by step count and batch."""
        self.memories: dict[int, Memory] = {}
        """By batch: the step count does not change the peak."""
        self.errors: dict[int, Exception] = {}
        """The exceptions of points that failed before the trace, by index."""
        self.call_s = 0.0
        """What a whole call takes, by the warm-up."""
        self.composed_steps = prediction.COMPOSED_STEPS
        """The steps of the calls that slow ones are composed from."""
        self.is_slow = False
        """Whether a whole call takes so long that it is composed from calls with fewer steps. Never on a CPU: other
        programs stall some calls there, and composing multiplies a stall."""

    def warm_up(self, point: Point) -> WarmUp:
        """Warm up with a point's first call, and find out whether its whole calls are slow."""
        short = self.short(point)
        warmed_up = warm_up(self.calls.user_call(short), self.calls.clock, self.tracer.graph_count)
        assert warmed_up.last_call_s is not None
        self.call_s = warmed_up.last_call_s * (point.steps / short.steps)
        self.composed_steps = prediction.composed_steps(warmed_up.last_call_s / short.steps)
        self.is_slow = self.cuda and self.call_s >= SLOW_CALL_S
        return warmed_up

    def short(self, point: Point) -> Point:
        """Return the point with few steps, to warm up with; the same point if its steps differ or are few."""
        return with_steps(point, prediction.WARM_UP_STEPS) if self.has_equal_steps(point) else point

    def has_equal_steps(self, point: Point) -> bool:
        """Return whether a call of the point is long enough, and its steps alike enough, to be composed."""
        return point.steps > prediction.COMPOSED_STEPS and not uneven_steps(self.job.build)

    def is_composed(self, point: Point) -> bool:
        """Return whether a point's latency is composed from calls with fewer steps."""
        return self.is_slow and not point.whole and self.has_equal_steps(point)

    def is_long(self, point: Point) -> bool:
        """Return whether a point's calls are whole ones, and so long that two are enough."""
        return point.whole and self.is_slow and self.call_s >= LONG_CALL_S

    def is_left_out(self, point: Point) -> bool:
        """Return whether a point is not worth its time: another step count of slow calls that cannot be composed."""
        return point.index > 0 and self.is_slow and self.job.sweep_s is not None and not self.is_composed(point)

    def time_before_trace(self) -> None:
        """Time every point that cannot be predicted, before the profiler runs.

        The profiler stays attached to CUDA until the process ends and slows each launch (pytorch issue 144455), for a
        call of the demo on an H200 by 30 %.
        """
        with self.calls.turn():
            for point in self.job.points:
                if self.predict(point) is None and not self.is_left_out(point):
                    try:
                        self.time(point)
                    except Exception as error:  # the other step counts may still work
                        if not self.calls.ranks.is_in_step:
                            raise
                        self.errors[point.index] = error
                        release_frames(error)

    def known_timing(self, point: Point) -> tuple[Timing, Memory] | None:
        """Return the timing from before the trace, if any. Raises the exception of a point that failed there."""
        if point.index in self.errors:
            self.calls.channel.enter("time", point.index)
            raise self.errors[point.index]
        timing = self.timings.get((point.steps, point.batch))
        return (timing, self.memories[point.batch]) if timing else None

    def predict(self, point: Point) -> tuple[Timing, Memory] | None:
        """Predict a point from the measured ones, or return None if it must be measured."""
        if self.is_composed(point):
            return self._compose(point)
        known = {steps: timing for (steps, batch), timing in self.timings.items() if batch == point.batch}
        if not point.predict or len(known) < MIN_FOR_PREDICTION or uneven_steps(self.job.build):
            return None
        cost = prediction.fit({steps: timing.latency_s for steps, timing in known.items()})
        target_s = self.job.workload.latency_target_s
        return prediction.predicted_timing(cost, point.steps, point.batch, target_s), self.memories[point.batch]

    def _compose(self, point: Point) -> tuple[Timing, Memory] | None:
        """Compose a slow point from calls of fewer steps, or return None if these must be measured or cannot tell."""
        steps, target_s = self.composed_steps, self.job.workload.latency_target_s
        short = self.timings.get((steps, point.batch))
        if short is None or not prediction.can_compose(short.components, steps):
            return None
        timing = prediction.composed_timing(short, steps, point.steps, point.batch, target_s)
        return timing, self.memories[point.batch]

    def time(self, point: Point) -> tuple[Timing, Memory]:
        """Measure a point, or of a slow call those of fewer steps that its latency is composed from."""
        if not self.is_composed(point):
            return self._time(point)
        if (self.composed_steps, point.batch) not in self.timings:
            self._time(with_steps(point, self.composed_steps))
        composed = self._compose(point)
        if composed is not None and composed[0].latency_s.value >= SLOW_CALL_S:
            return composed
        self.is_slow = False  # a call's fixed part made it look slow, or its steps are not all that changes
        return self._time(point)

    def _time(self, point: Point) -> tuple[Timing, Memory]:
        """Measure a point in a turn."""
        self.calls.channel.enter("time", point.index)
        with self.calls.turn(in_pair=self.job.standing is not None):
            return self._time_undisturbed(point)

    def _time_undisturbed(self, point: Point) -> tuple[Timing, Memory]:
        """Measure the latency, the peak memory and the time of each component.

        If most calls take much longer than the last one of the warm-up, something disturbs: they are made again, once.
        Raises CompiledWhileTimed if a graph was compiled meanwhile, and NoEffect if a cache skipped nothing in slow
        calls: their images would take long and show nothing.
        """
        from tuner.trace.findings import recompiles_between

        call, build = self.calls.user_call(point), self.job.build
        warmed_up = self._warm_up_again(point, call)
        self._reset_peak_memory()
        before = self.tracer.compile_log.read()
        watch(self.calls.pipe, build, self.job.environment)
        parts: list[Components] = []
        timed = self._with_parts(call, parts) if self.is_slow and not point.whole else call
        timing = self._measure(timed, point, warmed_up)
        if warmed_up.last_call_s and disturbance.is_disturbed(timing.latency_s.value, warmed_up.last_call_s):
            parts.clear()
            again = self._measure(timed, point, warmed_up)
            timing = msgspec.structs.replace(again, stalled_calls=again.stalled_calls + timing.samples)
        late = recompiles_between(before, self.tracer.compile_log.read(), calls=timing.samples)
        if late:
            raise CompiledWhileTimed(f"{late[0].operator} was compiled while it was timed: {late[0].reason}")
        if point.score and self.is_slow:
            require_skipped_steps(self.calls.pipe, build)
        memory = self._peak_memory()
        components: Components | None = None
        if parts:
            components = median_parts(parts)
        elif not point.whole:
            components = self._components(call, timing.latency_s.value)
        timing = msgspec.structs.replace(
            timing, warm_up=warmed_up, components=components, gpu=of_one_device(timing.gpu, self.calls.ranks.count)
        )
        self.timings[point.steps, point.batch] = timing
        self.memories[point.batch] = memory
        return timing, memory

    def _with_parts(self, call: Callable[[], object], parts: list[Components]) -> Callable[[], object]:
        """Return a call that also adds the time of its parts. The marks cost a slow call next to nothing."""
        return lambda: parts.append(time_components(call, self.calls.pipe, self.calls.clock))

    def _components(self, call: Callable[[], object], latency_s: float) -> Components:
        """Time the parts of one call, of another one if something disturbed that, up to three in all."""
        tried = [time_components(call, self.calls.pipe, self.calls.clock)]
        while len(tried) < MAX_PART_CALLS and disturbance.is_disturbed(tried[-1].total_s, latency_s):
            tried.append(time_components(call, self.calls.pipe, self.calls.clock))
        return min(tried, key=lambda parts: parts.total_s)

    def _warm_up_again(self, point: Point, call: Callable[[], object]) -> WarmUp:
        """Warm up for a point. A slow call needs no more than one: shorter ones have settled everything but heat.

        In a pair with slow calls these need none: the calls of the other one keep the GPU warm. A long call warms up
        in its first seconds.
        """
        is_brief = self.job.standing is not None and self.job.standing.is_brief
        if (is_brief and self.call_s >= SURELY_SLOW_S) or self.is_long(point):
            return WarmUp(calls=0, settled=True)
        if not self.is_slow and not is_brief:
            self._empty_cache()
            return warm_up(call, self.calls.clock, self.tracer.graph_count, self.job.allowance_s)
        self._empty_cache()
        seconds, _ = time_call(call, self.calls.clock)
        return WarmUp(calls=1, settled=True, last_call_s=seconds)

    def _measure(self, call: Callable[[], object], point: Point, warmed_up: WarmUp) -> Timing:
        job, channel = self.job, self.calls.channel
        call_s = warmed_up.last_call_s or self.call_s
        blocks = None if job.standing is None else Blocks(channel, job.standing, call, call_s)
        return measure(
            call, self.calls.clock, point.batch, self._stopping_rule(point, blocks), self._monitor(),
            job.workload.latency_target_s, blocks.before_call if blocks is not None else lambda: 0.0,
        )  # fmt: skip

    def _stopping_rule(self, point: Point, blocks: Blocks | None) -> StoppingRule:
        """Return how precisely to time a point: slow calls less in the search, and in pairs, whose ratio counts."""
        if self.is_long(point):
            return StoppingRule(self.job.allowance_s, LONG_HALF_WIDTH, MIN_PAIRED_SAMPLES)
        if blocks is not None and self.job.standing is not None and self.job.standing.is_brief:
            least = max(MIN_QUICK_PAIRED_SAMPLES, blocks.left + blocks.size)
            return StoppingRule(self.job.allowance_s, PAIRED_HALF_WIDTH, MIN_PAIRED_SAMPLES, min_samples=least)
        is_rough = self.is_slow and not point.whole
        return StoppingRule(self.job.allowance_s, SEARCH_HALF_WIDTH if is_rough else TARGET_HALF_WIDTH)

    def check_prediction(self, point: Point, timing: Timing, memory: Memory) -> tuple[Timing, Memory]:
        """Compare a prediction with the calls that generated the images, and measure the point if they contradict it.

        Too few calls, or calls after the profiler ran, decide nothing.
        """
        generation_s = self.calls.generation_s
        if timing.predicted_from is None or len(generation_s) < MIN_SAMPLES or self.tracer.profiled:
            return timing, memory
        interval = median_interval(generation_s)
        if prediction.is_contradicted(timing.latency_s, interval):
            return self._time(point)
        return msgspec.structs.replace(timing, generation_s=interval), memory

    def _empty_cache(self) -> None:
        if self.cuda:
            import torch

            torch.cuda.empty_cache()

    def _reset_peak_memory(self) -> None:
        peak.reset(self.job)
        self.calls.ranks.reset_peaks()

    def _monitor(self) -> telemetry.GpuMonitor | telemetry.UnavailableMonitor | None:
        if not self.cuda:
            return None
        import torch

        self.nvml = self.nvml or telemetry.Nvml.for_torch(self.weights.own_use(self.job))
        return self.nvml.monitor(torch.cuda.memory_reserved)

    def _peak_memory(self) -> Memory:
        """Return the peak of the device that needed most."""
        own = peak.read(self.job, self.weights.lent_bytes(self.calls.pipe))
        return max((own, *self.calls.ranks.peaks()), key=lambda memory: memory.peak_bytes)


def median_parts(parts: Sequence[Components]) -> Components:
    """Return the parts of the call that took the median time: a stalled one does not count."""
    return sorted(parts, key=lambda each: each.total_s)[len(parts) // 2]


def of_one_device(gpu: GpuUse | None, devices: int) -> GpuUse | None:
    """Return how the GPU was used. Without its energy if others computed too, and with what was not read of them."""
    if gpu is None or devices == 1:
        return gpu
    reasons = (
        f"energy: it was read of one of {devices} GPUs only",
        f"throttling and other users: they were read of one of {devices} GPUs only",
    )
    return msgspec.structs.replace(gpu, energy_j=None, unavailable_reasons=(*gpu.unavailable_reasons, *reasons))


def with_steps(point: Point, steps: int) -> Point:
    """Return a point with another step count."""
    return msgspec.structs.replace(point, steps=steps)

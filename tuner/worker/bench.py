"""One pipeline, built once, on which points are measured."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tuner.hardware import telemetry
from tuner.knobs import allowances, apply_knobs, call_arguments, uneven_steps
from tuner.knobs.graphs import replays_cuda_graphs
from tuner.model import pipeline
from tuner.records.gate import TraceSummary, Verdict
from tuner.records.machine import Memory
from tuner.records.outcome import Build, Timing
from tuner.records.protocol import (
    Alive,
    Job,
    Point,
    PointDone,
)
from tuner.records.quality import Quality
from tuner.timing import prediction, roofline
from tuner.timing.components import denoisers, patch_calls, time_components
from tuner.timing.intervals import MIN_SAMPLES, median_interval
from tuner.timing.measure import Clock, CudaClock, measure, warm_up
from tuner.worker.channel import Channel
from tuner.worker.failures import CompiledWhileTimed
from tuner.worker.scoring import Scoring, to_judge

MIN_FOR_PREDICTION = 2
"""So many step counts tell a fixed cost and a cost per step."""


class Bench:
    """One pipeline, built once, on which points are measured."""

    def __init__(self, job: Job, channel: Channel) -> None:
        self.job = job
        self.channel = channel
        self.cuda = job.environment.device == "cuda"
        self.clock = CudaClock() if self.cuda else Clock()
        self.nvml: telemetry.Nvml | None = None
        self.timings: dict[tuple[int, int], Timing] = {}
        """What was measured so far, by step count and batch."""
        self.memories: dict[int, Memory] = {}
        """By batch: the step count does not change the peak."""
        self.untimed: dict[int, Exception] = {}
        """Why points could not be timed ahead of the trace, by index."""
        self.profiled = False
        self.drawn_s: list[float] = []
        """Seconds of each call that drew images of the point to be scored."""
        self.scoring: Scoring | None = None

    def build(self, folder: Path) -> Build:
        """Load, apply, warm up and trace. `folder` takes the trace."""
        from tuner.trace import dynamo

        job, first = self.job, self.job.points[0]
        self.channel.enter("load")
        clock = Stopwatch()
        dtype = job.build["precision.dtype"]
        if self.cuda:
            self.nvml = telemetry.Nvml.for_torch()
        self.pipe = pipeline.load(job.model, job.environment, dtype)
        load_s = clock.lap()
        self.channel.enter("apply")
        self.compile_log = dynamo.start_compile_log()
        changes = apply_knobs(self.pipe, job.build, job.environment)
        apply_s = clock.lap()
        self.channel.enter("compile")
        call = self.caller(first)
        rejected = self.first_call(call, first, folder)
        self.clock.synchronize()
        first_call_s = clock.lap()
        if rejected is not None:
            return Build(
                changes=changes, load_s=load_s, apply_s=apply_s, first_call_s=first_call_s, trace=rejected[0],
                verdict=rejected[1],
            )  # fmt: skip
        self.channel.enter("warm up")
        warmed_up = warm_up(call, self.clock, self.graphs)
        assert warmed_up.last_call_s is not None
        compile_s = max(0.0, first_call_s - warmed_up.last_call_s)
        summary, verdict = None, None
        if job.trace:
            if self.cuda:
                self.time_ahead()
            self.channel.enter("trace")
            summary, verdict = self.trace(first, folder, asks_for_graphs=replays_cuda_graphs(job.build))
        found = None
        if job.probe:
            self.channel.enter("probe")
            found = roofline.measure_roofline(partial(self.draw_steps, first), self.pipe, job.environment, first.batch)
        return Build(
            changes=changes, load_s=load_s, apply_s=apply_s, first_call_s=first_call_s, compile_s=compile_s,
            trace=summary, verdict=verdict, roofline=found,
        )  # fmt: skip

    def first_call(self, call: Callable[[], object], point: Point, folder: Path) -> tuple[TraceSummary, Verdict] | None:
        """Make the call that compiles. Where a break in the steps would reject the configuration dynamo looks for one
        first, and what the gate makes of the pieces comes back: inductor, which takes minutes of a large model, is not
        asked."""
        from tuner.trace import dynamo

        if not self.breaks_reject():
            call()
            return None
        with patch_calls(denoisers(self.pipe), dynamo.error_on_graph_break):
            breaks = dynamo.breaks_graph(call)
        if not breaks:
            return None
        found = self.trace_pieces(point, folder)
        if found is not None and found[1].status != "clean":
            return found
        self.channel.enter("compile")
        self.compile_log = dynamo.restart_compile_log()
        call()
        return None

    def trace_pieces(self, point: Point, folder: Path) -> tuple[TraceSummary, Verdict] | None:
        """What the gate makes of a graph's pieces, each run operator by operator. None where they do not run (they may
        take more memory than compiled code) or where no break is left to reject them for."""
        from tuner.trace import capture, dynamo, sources

        def draw() -> object:
            self.channel.send(Alive())
            return self.draw_steps(point, capture.STEPS)

        with dynamo.without_inductor() as self.compile_log:
            try:
                warm_up(draw, self.clock, self.graphs)
            except Exception as error:
                traceback.print_exception(error)
                return None
            if all(sources.is_outside_denoiser(found.source) for found in self.compile_log.read().breaks):
                return None
            self.channel.enter("trace")
            summary, verdict = self.trace(point, folder, asks_for_graphs=False)
        # Neither prices nor waits are those of compiled code.
        findings = tuple(
            msgspec.structs.replace(finding, idle_ms_per_step=None)
            for finding in verdict.findings
            if finding.kind in ("graph break", "recompile")
        )
        skipped = (*verdict.skipped, "what inductor makes of it: the graph breaks, so it was not asked")
        return summary, msgspec.structs.replace(verdict, findings=findings, skipped=skipped)

    def breaks_reject(self) -> bool:
        """Whether any graph break is one too many."""
        job = self.job
        outlives_reset = job.build.get("graphs.denoiser")  # captured by hand, where dynamo cannot forget it
        if job.is_baseline or not job.trace or outlives_reset:
            return False
        tolerated = {*job.gate.count_per_step, *(a.kind for a in (*allowances(job.build), *job.allowed))}
        return "graph break" not in tolerated and job.gate.max_idle_ms_per_step == 0

    def trace(self, point: Point, folder: Path, *, asks_for_graphs: bool) -> tuple[TraceSummary, Verdict]:
        """Three profiled denoising steps and what the gate makes of them; a rejection gets its source lines."""
        from tuner.trace import capture, gate, read
        from tuner.trace.summary import summarise

        self.profiled = self.cuda
        job, call = self.job, partial(self.draw_steps, point)
        trace = read.load(capture.capture(call, self.pipe.scheduler, folder, "denoise"))
        verdict = gate.judge(
            trace, self.compile_log.read(), (*allowances(job.build), *job.allowed), job.environment.device, job.gate,
            asks_for_graphs=asks_for_graphs,
        )  # fmt: skip
        if any(not finding.source for finding in verdict.undeclared()):
            with tempfile.TemporaryDirectory() as scratch:
                diagnostic = read.load(
                    capture.capture(call, self.pipe.scheduler, Path(scratch), "diagnostic", stacks=True)
                )
            verdict = gate.add_source_lines(verdict, diagnostic)
        return summarise(trace), verdict

    def time_ahead(self) -> None:
        """Time what cannot be predicted before the profiler has run: it stays attached to CUDA until the process ends
        and makes each launch dearer (pytorch issue 144455), a call of the demo on an H200 by 30 %."""
        for point in self.job.points:
            if self.predicted(point) is None:
                try:
                    self.timed(point)
                except Exception as error:  # one step count that fails leaves the others
                    self.untimed[point.index] = error

    def timed_ahead(self, point: Point) -> tuple[Timing, Memory] | None:
        """What was timed before the trace; what failed then fails now."""
        if point.index in self.untimed:
            self.channel.enter("time", point.index)
            raise self.untimed[point.index]
        timing = self.timings.get((point.steps, point.batch))
        return (timing, self.memories[point.batch]) if timing else None

    def measure(self, point: Point) -> PointDone:
        """Latency and memory, then the images."""
        timing, memory = self.timed_ahead(point) or self.predicted(point) or self.timed(point)
        self.channel.enter("score", point.index)
        self.drawn_s = []
        quality = self.quality(point)
        if timing.predicted_from is not None and len(self.drawn_s) >= MIN_SAMPLES and not self.profiled:
            generation_s = median_interval(self.drawn_s)
            timing = msgspec.structs.replace(timing, generation_s=generation_s)
            if prediction.is_contradicted(timing.latency_s, generation_s):
                timing, memory = self.timed(point)
        return PointDone(index=point.index, timing=timing, memory=memory, quality=quality)

    def predicted(self, point: Point) -> tuple[Timing, Memory] | None:
        """What the points before tell of this one; None when it must be measured."""
        known = {steps: timing for (steps, batch), timing in self.timings.items() if batch == point.batch}
        if not point.predict or len(known) < MIN_FOR_PREDICTION or uneven_steps(self.job.build):
            return None
        cost = prediction.fit({steps: timing.latency_s for steps, timing in known.items()})
        target_s = self.job.workload.latency_target_s
        return prediction.predicted_timing(cost, point.steps, point.batch, target_s), self.memories[point.batch]

    def timed(self, point: Point) -> tuple[Timing, Memory]:
        """Latency with the profiler off, peak memory, and where the time goes."""
        from tuner.trace.findings import recompiles_between

        self.channel.enter("time", point.index)
        call = self.caller(point)
        if self.cuda:
            import torch

            torch.cuda.empty_cache()
        warmed_up = warm_up(call, self.clock, self.graphs, self.job.allowance_s)
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        before = self.compile_log.read()
        target_s = self.job.workload.latency_target_s
        timing = measure(call, self.clock, point.batch, self.job.allowance_s, self.watch(), target_s)
        late = recompiles_between(before, self.compile_log.read(), calls=timing.samples)
        if late:
            raise CompiledWhileTimed(f"{late[0].operator} was compiled while it was timed: {late[0].reason}")
        memory = self.memory()
        components = time_components(call, self.pipe, self.clock)
        timing = msgspec.structs.replace(timing, warm_up=warmed_up, components=components)
        self.timings[point.steps, point.batch] = timing
        self.memories[point.batch] = memory
        return timing, memory

    def quality(self, point: Point) -> Quality | None:
        """None when no images were asked for, or when they are those that the spot check knows."""
        if self.scoring is None:
            self.scoring = Scoring(self.pipe, self.job, self.images, lambda: self.channel.send(Alive()))
        return self.scoring.score(point)

    def images(self, point: Point, count: int) -> Any:
        """The first `count` images of the workload, drawn at the point's batch, as floats in 0..1; of videos what is
        judged of them."""
        import numpy as np

        batches = []
        for start in range(0, count, point.batch):
            indices = self.indices(point, start)
            self.channel.send(Alive())
            clock = Stopwatch()
            drawn = pipeline.generate(self.pipe, self.job.workload, indices, self.of_knobs(point), output_type="np")
            self.drawn_s.append(clock.lap())
            batches.append(to_judge(drawn, indices))
        return np.concatenate(batches)[:count]

    def caller(self, point: Point) -> Callable[[], object]:
        """A call of the pipeline as a user makes it: `batch` prompts in, PIL images out."""
        indices, of_knobs = self.indices(point), self.of_knobs(point)

        def call() -> object:
            self.channel.send(Alive())
            return pipeline.generate(self.pipe, self.job.workload, indices, of_knobs)

        return call

    def draw_steps(self, point: Point, steps: int) -> object:
        """One call of a point with another step count."""
        of_knobs = self.of_knobs(point) | call_arguments({"steps": steps})
        return pipeline.generate(self.pipe, self.job.workload, self.indices(point), of_knobs)

    def of_knobs(self, point: Point) -> dict[str, Any]:
        """What the knobs of a point say of the arguments of its calls."""
        return call_arguments({**self.job.build, "steps": point.steps, "batch": point.batch})

    def indices(self, point: Point, start: int = 0) -> list[int]:
        """A batch of prompts from `start` on, beginning again where they end."""
        return [(start + offset) % len(self.job.workload.prompts) for offset in range(point.batch)]

    def graphs(self) -> int:
        """How many graphs this process has compiled so far."""
        return self.compile_log.read().unique_graphs

    def watch(self) -> telemetry.GpuMonitor | telemetry.UnavailableMonitor | None:
        """Who looks at the GPU while a point is timed; None on a CPU."""
        if not self.cuda:
            return None
        import torch

        self.nvml = self.nvml or telemetry.Nvml.for_torch()
        return self.nvml.monitor(torch.cuda.memory_reserved)

    def memory(self) -> Memory:
        if self.cuda:
            import torch

            reserved = torch.cuda.max_memory_reserved()
            hidden = replays_cuda_graphs(self.job.build)  # a replay allocates nothing
            peak = reserved if hidden else torch.cuda.max_memory_allocated()
            return Memory(peak_bytes=peak, reserved_bytes=reserved)
        scale = 1 if sys.platform == "darwin" else 1024
        return Memory(peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale, reserved_bytes=None)


class Stopwatch:
    """Seconds since the last lap."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self.start = now - self.start, now
        return seconds

"""One row, built and timed in a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator
from functools import wraps
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import pipelines

from knobs_bench.lent import borrowed, made, put
from knobs_bench.plan import PROMPTS
from knobs_bench.rows import MEAN_STEPS, Trial
from tuner.knobs import KNOBS, apply_knobs, call_arguments
from tuner.knobs.graphs import replays_cuda_graphs
from tuner.model import pipeline
from tuner.quality.guards import InvalidImage
from tuner.records.machine import Environment
from tuner.records.model import Workload
from tuner.timing import components
from tuner.timing.measure import Clock, CudaClock
from tuner.worker import failures

WARM_UP_STEPS, TIMED_STEPS = 3, 6
PARTS_TIMED = 5
CALM = 1.03
"""Above this ratio of the longest step to the shortest, a call is timed once more and the calmer one counts."""
SETTLE_S = 0.2
"""So long a pipeline draws before it is timed."""
BUSY = 1.3
"""Products of matrices that take so many times what one took on the idle GPU: another process has work on it, which
doubles them. A GPU that has just worked hard is slower too, but not for long."""
PAUSE_S, PRODUCTS = 0.1, 5
"""After such a pause the fastest of so many products counts."""
MAX_TIMINGS = 4
"""A row that was disturbed so often fails."""
PATIENCE_S = 40.0
"""What stopped processes had queued on the GPU is done after so long, or the row fails."""


class Bench:
    """A pipeline on which one trial is built and timed."""

    def __init__(self, given: argparse.Namespace, here: Environment, row: Trial, pipe: Any, send: Callable[..., None]):
        self.given, self.here, self.row, self.pipe, self.send = given, here, row, pipe, send
        self.clock = CudaClock() if here.device == "cuda" else Clock()
        self.stage = "load"
        self.memory: Any = None
        call = {"height": 32, "width": 32, **pipelines.CALL.get(given.family, {})} if given.tiny else {}
        size = {name: call.pop(name, 1024) for name in ("height", "width")}
        frames = call.pop("num_frames", None)
        self.workload = Workload(
            prompts=PROMPTS, seeds=tuple(range(len(PROMPTS))), num_frames=frames, arguments=call, **size
        )

    def build(self) -> None:
        import torch

        if self.given.tiny:
            dtype = getattr(torch, str(KNOBS["precision.dtype"].baseline(self.here)))
            self.pipe = pipelines.build(self.given.family).to(self.here.device, dtype)
        else:
            self.memory = borrowed(self.given.weights) if self.given.weights else made(self.pipe)
            put(self.pipe, self.memory)
            self.pipe.to(self.here.device)
        self.pipe.set_progress_bar_config(disable=True)
        self.clock.synchronize()
        self.enter("apply")
        changes = apply_knobs(self.pipe, self.row.values, self.here)
        self.enter("warm up", changes=changes)

    def enter(self, stage: str, **further: Any) -> None:
        self.stage = stage
        self.send(stage=stage, **further)

    def warm_up(self) -> None:
        """A whole call, which compiles, with an image that is one."""
        steps = MEAN_STEPS if self.row.what == "mean step" else WARM_UP_STEPS
        with marked_steps(self.pipe.scheduler, self.clock, waits=True):  # one that is stopped has a step queued at most
            drawn = np.asarray(self.draw(steps, "np"), dtype=np.float32)
        if not np.isfinite(drawn).all() or drawn.std() == 0:
            raise InvalidImage("the image is constant or has numbers that are none")

    def draw(self, steps: int, output_type: str) -> Any:
        indices = range(int(self.row.values["batch"]))
        of_knobs = call_arguments({**self.row.values, "steps": steps})
        return pipeline.generate(self.pipe, self.workload, list(indices), of_knobs, output_type=output_type)

    def draw_once(self) -> Any:
        return self.draw(1, "pt")

    def steps(self, count: int, output_type: str = "latent") -> list[float]:
        """What the steps of a call took, without the first."""
        with marked_steps(self.pipe.scheduler, self.clock) as marks:
            self.draw(count, output_type)
            self.clock.synchronize()
        return [self.clock.elapsed_s(start, end) for start, end in pairwise(marks)]

    def timed(self) -> tuple[float, list[float]]:
        """Seconds of what the trial is about, and the samples that they come from."""
        part = self.row.what
        if part == "mean step":  # of the steps asked for, whatever a solver makes of them
            samples = self.steps(MEAN_STEPS)
            return sum(samples) / (MEAN_STEPS - 1), samples
        if part in ("VAE decode", "text encoding"):
            field = "vae_s" if part == "VAE decode" else "text_encoders_s"
            calls_s = [components.time_components(self.draw_once, self.pipe, self.clock) for _ in range(PARTS_TIMED)]
            samples = [getattr(call_s, field) for call_s in calls_s]
            return median(samples), samples
        if part == "whole call":
            start = self.clock.record()
            self.draw(int(self.row.values["steps"]), "pil")
            end = self.clock.record()
            self.clock.synchronize()
            return self.clock.elapsed_s(start, end), [self.clock.elapsed_s(start, end)]
        if self.row.alone:
            samples = self.steps(WARM_UP_STEPS, "np")
        else:
            samples = self.steps(TIMED_STEPS)
            if max(samples) / min(samples) > CALM:
                samples = min(samples, self.steps(TIMED_STEPS), key=lambda call: max(call) / min(call))
        return median(samples) / int(self.row.values["batch"]), samples

    def measure(self) -> dict[str, Any]:
        if self.here.device == "cpu":
            seconds, samples = self.timed()
            return {"seconds": seconds, "samples_s": samples}
        import torch

        torch.cuda.empty_cache()
        if not self.row.alone:
            self.settle()
        torch.cuda.reset_peak_memory_stats()
        seconds, samples = self.undisturbed()
        hidden = replays_cuda_graphs(self.row.values)  # a replay allocates nothing
        peak = torch.cuda.max_memory_reserved() if hidden else torch.cuda.max_memory_allocated()
        return {"seconds": seconds, "samples_s": samples, "peak_bytes": peak + self.borrowed_bytes()}

    def undisturbed(self) -> tuple[float, list[float]]:
        """The first timing after which the GPU has nothing else to do."""
        for attempt in range(MAX_TIMINGS):
            if attempt:
                self.settle()
            timing = self.timed()
            if not self.is_disturbed():
                return timing
        raise RuntimeError(f"the GPU was busy with something else after each of {MAX_TIMINGS} timings")

    def is_disturbed(self) -> bool:
        """Whether another process has work on the GPU: then the fastest of several products is slow too."""
        if self.given.product_s is None:
            return False
        time.sleep(PAUSE_S)
        return min(product_s() for _ in range(PRODUCTS)) > BUSY * self.given.product_s

    def settle(self) -> None:
        """Until the GPU is this process's alone and runs at its speed."""
        until = time.monotonic() + PATIENCE_S
        while self.is_disturbed():
            if time.monotonic() > until:
                raise RuntimeError(f"the GPU was still busy {PATIENCE_S:.0f} s after the others were stopped")
        since = time.monotonic()
        while time.monotonic() < since + SETTLE_S:
            self.draw(2, "latent")
            self.clock.synchronize()

    def borrowed_bytes(self) -> int:
        """What of the lent weights is in use."""
        if self.memory is None or not self.given.weights:
            return 0
        start = self.memory.data_ptr()
        end = start + self.memory.nbytes
        held = {
            parameter.data_ptr(): parameter.numel() * parameter.element_size()
            for model in pipelines.models(self.pipe).values()
            for parameter in model.parameters()
            if parameter.device.type == "cuda" and type(parameter).__name__ == "Parameter"
        }
        return sum(size for address, size in held.items() if start <= address < end)


@contextlib.contextmanager
def marked_steps(scheduler: Any, clock: Clock, waits: bool = False) -> Iterator[list[Any]]:
    """While the end of each of the scheduler's steps is marked, and perhaps waited for."""
    own, step = vars(scheduler).get("step"), scheduler.step
    marks: list[Any] = []

    @wraps(step)  # pipelines read its signature
    def marked(*arguments: Any, **named: Any) -> Any:
        result = step(*arguments, **named)
        marks.append(clock.record())
        if waits:
            clock.synchronize()
        return result

    scheduler.step = marked
    try:
        yield marks
    finally:
        if own is None:
            del scheduler.step
        else:
            scheduler.step = own


def product_s() -> float:
    """Seconds of a hundred products of matrices on the GPU."""
    import torch

    clock = CudaClock()
    matrix = torch.ones(4096, 4096, dtype=torch.bfloat16, device="cuda")
    clock.synchronize()
    start = clock.record()
    for _ in range(100):
        matrix @ matrix
    end = clock.record()
    clock.synchronize()
    return clock.elapsed_s(start, end)


def work(given: argparse.Namespace, here: Environment, row: Trial, pipe: Any, tell: int, handle: int) -> None:
    """Build and time one trial, telling how far it is. It is timed when it is let."""

    def send(**message: Any) -> None:
        os.write(tell, json.dumps({"at": time.monotonic(), **message}).encode() + b"\n")

    bench = Bench(given, here, row, pipe, send)
    try:
        bench.build()
        if not row.alone:
            bench.warm_up()
        bench.enter("ready")
        if not os.read(handle, 1):
            return
        bench.enter("time")
        result = bench.measure()
        send(stage="done", **result)
    except BaseException as error:
        traceback.print_exc()
        send(stage="failed", failure=f"{failures.name_failure(error)} ({bench.stage}): {failures.one_line(error)}")

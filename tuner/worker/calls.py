"""The calls of the pipeline that the points of a job make."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tuner.knobs import call_arguments
from tuner.model import pipeline
from tuner.records.protocol import Alive, ImageSize, Job, Point
from tuner.records.ranks import Draw
from tuner.timing.measure import Clock
from tuner.worker.channel import Channel
from tuner.worker.ranks import Ranks
from tuner.worker.remedies import effective_arguments
from tuner.worker.scoring import scored_frames


class PipelineCalls:
    """A loaded pipeline, and the calls of it that points make. The parent is notified of each call."""

    def __init__(self, pipe: Any, job: Job, channel: Channel, clock: Clock, ranks: Ranks | None = None) -> None:
        self.pipe = pipe
        self.job = job
        self.channel = channel
        self.clock = clock
        self.ranks = ranks or Ranks(channel)
        channel.arguments = effective_arguments(pipe, job.workload)
        self.generation_s: list[float] = []
        """Seconds of each call that generated images of the current point for scoring."""
        self.size: ImageSize | None = None
        """The size of what a call as a user makes it generated last."""

    def user_call(self, point: Point) -> Callable[[], object]:
        """Return a call as a user makes it: `batch` prompts in, PIL images out."""
        command = Draw(indices=self.prompt_indices(point), steps=point.steps, batch=point.batch, output_type="pil")

        def call() -> object:
            self.report_alive()
            return self.draw(command)

        return call

    def run_steps(self, point: Point, steps: int, trace_folder: Path | None = None) -> object:
        """Call the pipeline once at a point with another step count. The other ranks are traced to `trace_folder`."""
        return self.draw(
            Draw(
                indices=self.prompt_indices(point), steps=steps, batch=point.batch, output_type="pil",
                trace_folder=str(trace_folder) if trace_folder else None,
            )
        )  # fmt: skip

    def draw(self, command: Draw) -> Any:
        """Call the pipeline, on all devices that compute an image."""
        arguments = call_arguments({**self.job.build, "steps": command.steps, "batch": command.batch})
        with self.ranks.drawing(command):
            drawn = pipeline.generate(
                self.pipe, self.job.workload, command.indices, arguments, output_type=command.output_type
            )
        self.size = image_size(drawn) or self.size
        return drawn

    def generate_images(self, point: Point, first: int, end: int) -> Any:
        """Generate the images of the prompts from `first` up to `end` at the point's batch, as floats in 0..1.

        Of videos only the scored frames are kept. The seconds of each call are appended to `generation_s`.
        """
        import numpy as np

        batches = []
        for start in range(first, end, point.batch):
            indices = self.prompt_indices(point, start)
            self.report_alive()
            stopwatch = Stopwatch()
            images = self.draw(Draw(indices=indices, steps=point.steps, batch=point.batch, output_type="np"))
            self.generation_s.append(stopwatch.lap())
            batches.append(scored_frames(images, indices))
        return np.concatenate(batches)[: end - first]

    def prompt_indices(self, point: Point, start: int = 0) -> tuple[int, ...]:
        """Return the prompts of a batch from `start` on, wrapping around at the end."""
        return tuple((start + offset) % len(self.job.workload.prompts) for offset in range(point.batch))

    @contextmanager
    def turn(self, *, in_pair: bool = False) -> Iterator[None]:
        """Have the device alone meanwhile, for what must not be disturbed, but not while something is compiled.

        A worker that stands still may hold a compiler's lock.
        """
        from tuner.trace import dynamo

        channel = self.channel
        with channel.turn(in_pair=in_pair), dynamo.calling_around_compiling(channel.end_turn, channel.take_turn):
            yield

    def turn_on_cpu(self) -> AbstractContextManager[None]:
        """Have the device alone meanwhile if it is a CPU: a call takes all cores, and two at once are far slower.

        There only loading and compiling goes on beside others.
        """
        return self.turn() if self.job.environment.device == "cpu" else nullcontext()

    def report_alive(self) -> None:
        """Notify the parent that the worker makes progress."""
        self.channel.send(Alive())


def image_size(drawn: Any) -> ImageSize | None:
    """Return the size of images or videos of PIL, None of anything else."""
    from PIL.Image import Image

    first = drawn[0] if isinstance(drawn, list) and drawn else None
    frames = first if isinstance(first, list) else [first]
    if not frames or not isinstance(frames[0], Image):
        return None
    return ImageSize(width=frames[0].width, height=frames[0].height, frames=len(frames))


class Stopwatch:
    """The time since the last lap."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last lap, and start the next."""
        now = time.perf_counter()
        seconds, self.start = now - self.start, now
        return seconds

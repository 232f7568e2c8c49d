"""The images of one build: drawn, judged, and of the baseline all that others are judged against."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import msgspec

from tuner import knobs
from tuner.errors import Unavailable
from tuner.knobs.compile import compiled_blocks, missing_compiler
from tuner.knobs.parallel import device_count
from tuner.model import pipeline
from tuner.quality import denoiser, guards, panel, race
from tuner.quality.device_memory import free_memory
from tuner.quality.images import Images, select_frames, stills_per_image
from tuner.quality.metrics import MetricContext
from tuner.quality.reference import DENOISER, OTHER_SEEDS, VARIATIONS, baseline_reference
from tuner.records.model import Workload
from tuner.records.protocol import Drawn, Job, Point
from tuner.records.quality import DenoiserError, NoiseFloor, Quality, Reference
from tuner.timing.measure import SLOW_CALL_S

VARIED = 4
"""Number of prompts that are generated again with other rounding and from other seeds, where calls are not slow."""

COMPARED_SLOW = 8
"""Calls of the denoiser whose error is computed, where calls of the pipeline are slow. All of them take as long as an
image: 36 s of the quickest build of Wan 2.1 1.3B on an H200."""

NO_TIME = "the images of the prompts take all of the time that the untouched pipeline's may take"


class Scoring:
    """Scores the points of one build.

    `draw` generates a point's images of the prompts from one index up to another, `alive` is told of every call.
    `call_s` is how long an undisturbed call takes: while images are generated, workers share the GPU and stand still.
    """

    def __init__(
        self, pipe: Any, job: Job, draw: Callable[[Point, int, int], Any], alive: Callable[[], None], call_s: float
    ) -> None:
        self.pipe = pipe
        self.job = job
        self.workload = job.workload
        """The workload with the prompts that are judged."""
        self.call_s = call_s
        self.draw = draw
        self.alive = alive
        self.reference = job.reference  # the baseline's own job has none: its first images become it
        context = MetricContext(job.environment.device, pipeline.scorer_source(job.model), job.quality.metric_paths)
        self.judge = panel.Judge(job.quality.metric, context, job.workload)

    def score(self, point: Point) -> Quality | None:
        """Return the quality of a point's images; None if none were asked for or the spot check knows them."""
        if not point.score:
            return None
        started = time.monotonic()
        if point.spot_check is not None:
            sample = self.draw(point, 0, panel.SPOT_CHECKED)
            if panel.same_images(sample, point.spot_check, self.workload):
                return None
        folder = Path(point.folder)
        if point.drawn is not None:
            quality = self.judge_more(point, point.drawn, folder / "images")
            return msgspec.structs.replace(quality, spent_s=time.monotonic() - started)
        quality = self.judge_images(point, folder / "images")
        if self.reference is None:
            quality = self.prepare(point, quality)
            self.reference = baseline_reference(folder, quality)
        else:
            error, unavailable_reasons = self.denoiser_error(point, self.reference)
            quality = msgspec.structs.replace(
                quality, denoiser_error=error, denoiser_error_unavailable_reason=unavailable_reasons
            )
        return msgspec.structs.replace(quality, spent_s=time.monotonic() - started)

    def judge_images(self, point: Point, folder: Path) -> Quality:
        """Judge a point's images: the baseline's all, others as many as leave no doubt of the verdict."""
        if self.reference is None:
            images, reason = self.reference_images(point)
            quality = self.judge.judge(images, None, folder)
            return msgspec.structs.replace(quality, denoiser_error_unavailable_reason=reason)
        count, tolerance = len(self.workload.prompts), self.job.tolerance
        if tolerance is None:
            return self.judge.judge(self.draw(point, 0, count), self.reference, folder, self.draws_same_noise())
        return self.judge_in_race(point, folder, tolerance)

    def judge_in_race(self, point: Point, folder: Path, tolerance: float) -> Quality:
        """Judge ever more images until they are surely within the tolerance or surely worse."""
        judging, count = self.judge.begin(self.reference, folder, self.draws_same_noise()), len(self.workload.prompts)
        before = 0
        for prompts in race.looks(count, point.batch):
            quality = judging.add(self.draw(point, before, prompts), prompts, race.confidence(before, prompts, count))
            decision, before = race.decision(quality.difference, tolerance, prompts), prompts
            if decision is not None and prompts < count:
                text = f"scored on {prompts} of {count} prompts: {decision}"
                return msgspec.structs.replace(quality, flags=(*quality.flags, text))
        return quality

    def judge_more(self, point: Point, drawn: Drawn, folder: Path) -> Quality:
        """Judge the images of all prompts, of which the first were generated before. The baseline's become a reference.

        The race has spent its error on the first ones: the interval is that of one more look.
        """
        import numpy as np

        count = len(self.workload.prompts)
        added = self.draw(point, drawn.prompts, count)
        first = self.workload.prompts[: drawn.prompts]
        known = Images.load_all(Path(drawn.images), first, stills_per_image(added))
        images = np.concatenate([known.stills.reshape(drawn.prompts, *added.shape[1:]), added])
        judging = self.judge.begin(self.reference, folder, self.draws_same_noise())
        return judging.add(images, count, race.FURTHER_CONFIDENCE)

    # ---- the baseline ------------------------------------------------------------------------------------------------

    def reference_images(self, point: Point) -> tuple[Any, str | None]:
        """Generate the images that all others are judged against, of as many prompts as the allowance permits.

        Meanwhile keep what the denoiser is given and gives back. Says why if it cannot be.
        """
        import numpy as np

        count = len(self.workload.prompts)
        if self.job.reference_s is not None:
            affordable = self.job.reference_s / self.call_s * point.batch
            count = race.reference_prompts(count, point.batch, affordable, is_slow=self.is_slow)
        self.workload = self.judge.workload = self.workload.first(count)
        first, reason = self.record_denoiser(point, min(point.batch, count))
        others = [self.draw(point, len(first), count)] if len(first) < count else []
        return np.concatenate([first, *others]), reason

    @property
    def is_slow(self) -> bool:
        """Whether a call takes so long that the noise floor is measured with fewer of them."""
        return self.call_s >= SLOW_CALL_S

    @property
    def varied(self) -> int:
        """How many prompts the noise floor is measured with."""
        return race.VARIED_SLOW if self.is_slow else VARIED

    def prepare(self, point: Point, quality: Quality) -> Quality:
        """Prepare what else candidates are judged against: other rounding and other seeds."""
        folder, prompts = Path(point.folder), self.workload.prompts
        noise = self.noise(point, {"another attention kernel": self.other_kernel, "another batch position": self.moved})
        if self.further_sets(point) > 0:
            seeds = self.other_seeds(point)
            Images.from_pipeline(seeds, prompts[: len(seeds)]).save(folder / OTHER_SEEDS)
        else:
            reasons = (*noise.unavailable_reasons, f"images from other seeds, so that seeds are not checked: {NO_TIME}")
            noise = msgspec.structs.replace(noise, unavailable_reasons=reasons)
        return msgspec.structs.replace(quality, noise=noise)

    def further_sets(self, point: Point) -> int:
        """Return how many sets of images besides those of the prompts the allowance permits, two at most."""
        if self.job.reference_s is None or not self.is_slow:
            return 2
        return race.further_sets(len(self.workload.prompts), point.batch, self.job.reference_s / self.call_s)

    def noise(self, point: Point, variations: Mapping[str, Callable[[Point], Any]]) -> NoiseFloor:
        """Measure how far the first images move when rounding varies. What cannot be generated is left out."""
        started = time.monotonic()
        folder, prompts = Path(point.folder), self.workload.prompts[: self.varied]
        baseline = Images.load(folder / "images", self.workload.prompts).first(len(prompts))
        drawn: dict[str, Images] = {}
        unavailable_reasons: list[str] = []
        for name, vary in variations.items():
            try:
                drawn[name] = Images.from_pipeline(vary(point), prompts)
            except Exception as error:  # out of memory, a kernel that cannot do this, one prompt at a time
                unavailable_reasons.append(f"{name}: {_first_line(error)}")
                free_memory()
        paths = {name: folder / VARIATIONS / name.replace(" ", "-") for name in drawn}
        for name, images in drawn.items():
            images.save(paths[name])
        varied = list(drawn.values()) if len(prompts) > 1 else []  # one image has no interval
        return NoiseFloor(
            max_difference=panel.noise_floor(self.judge.metric, baseline, varied, self.judge.context),
            variations={name: str(path) for name, path in paths.items()},
            unavailable_reasons=tuple(unavailable_reasons),
            spent_s=time.monotonic() - started,
        )

    def compiled_noise(self, point: Point) -> NoiseFloor:
        """Measure the noise of compiling, last of all: what a compiler does to the process reaches nothing else."""
        return self.noise(point, {"compiled with emulated casts": self.compiled})

    def other_kernel(self, point: Point) -> Any:
        """Generate the first images with torch's attention computed by another kernel."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        if self.further_sets(point) < 2:
            raise Unavailable(NO_TIME)
        on_gpu = self.job.environment.device == "cuda"
        others = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH] if on_gpu else [SDPBackend.MATH]
        return self.generate_some(point, range(self.varied), around=lambda: sdpa_kernel(others))

    def moved(self, point: Point) -> Any:
        """Generate the first images in batches of two, each at the other's position."""
        import numpy as np

        if self.is_slow:
            raise Unavailable(f"a call takes {self.call_s:.1f} s, and other kernels move images as far")
        count = min(self.varied, len(self.workload.prompts))
        pairs = [[(start + 1) % count, start] for start in range(0, count, 2)]
        drawn = [self.generate_some(point, pair, batch=2)[::-1] for pair in pairs]
        return np.concatenate(drawn)[:count]

    def compiled(self, point: Point) -> Any:
        """Generate the first images with compiled blocks, which round between operators as eager code does."""
        if self.is_slow:
            raise Unavailable(f"a call takes {self.call_s:.1f} s, and compiling takes more than it would tell")
        if self.job.build["precision.dtype"] == "float32":
            raise Unavailable("in float32 they round finer than an image's 8 bits show")
        reason = missing_compiler(self.job.environment)
        if reason:
            raise Unavailable(reason)
        with compiled_blocks(self.pipe):
            return self.generate_some(point, range(self.varied))

    def other_seeds(self, point: Point) -> Any:
        """Generate the first prompts' images from each other's seeds."""
        workload = self.workload
        seeds = workload.seeds[1:] + workload.seeds[:1]
        if seeds == workload.seeds:
            seeds = tuple(seed + 1 if seed < 2**63 - 1 else 0 for seed in seeds)
        return self.generate_some(point, range(self.varied), workload=msgspec.structs.replace(workload, seeds=seeds))

    def generate_some(
        self, point: Point, indices: Sequence[int], *, batch: int | None = None, workload: Workload | None = None,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> Any:  # fmt: skip
        """Images of these prompts, drawn as at the point but for what is given."""
        import numpy as np

        workload, batch = workload or self.workload, batch or point.batch
        wanted = [index for index in indices if index < len(workload.prompts)]
        parts = []
        for start in range(0, len(wanted), batch):
            part = wanted[start : start + batch]
            full = (part * batch)[:batch]  # the last batch is filled up, so that its shape is the others'
            self.alive()
            with around():
                drawn = pipeline.generate(
                    self.pipe, workload, full, self.call_arguments(point, batch), output_type="np"
                )
            parts.append(scored_frames(drawn[: len(part)], part))
        return np.concatenate(parts)

    # ---- the denoiser ------------------------------------------------------------------------------------------------

    def record_denoiser(self, point: Point, count: int) -> tuple[Any, str | None]:
        """Generate the first images, of one batch, and keep what the denoiser is given and gives back in that call.

        Returns the images, and why nothing was kept if it could not be.
        """
        file, drawn, reason = Path(point.folder) / DENOISER, list[Any](), None
        about = {"steps": point.steps, "batch": point.batch}
        try:
            denoiser.record(self.pipe, lambda: drawn.append(self.draw(point, 0, count)), file, about)
        except Exception as error:  # what cannot be recorded costs the figure, not the trial
            reason = _first_line(error)
        if reason is not None:  # outside of the clause, which would keep what the failed call holds
            free_memory()
            file.unlink(missing_ok=True)
        return drawn[0] if drawn else self.draw(point, 0, count), reason

    def denoiser_error(self, point: Point, known: Reference) -> tuple[DenoiserError | None, str | None]:
        """Return the denoiser's error on the baseline's latents, or why it is not available."""
        if known.denoiser is None:
            return None, "the baseline's calls of its denoiser could not be recorded"
        recorded = denoiser.recorded(Path(known.denoiser))
        if device_count(self.job.build) > 1:
            return None, "several devices compute it, and all would have to be given the baseline's latents"
        untouched = knobs.baseline(self.job.environment) | {"steps": recorded["steps"]}
        name = knobs.trajectory_change({**self.job.build, "steps": point.steps}, untouched)
        if name:
            return None, f"{name} changes the steps, so its denoiser never sees the baseline's latents"
        prompts = [index % recorded["batch"] % len(self.workload.prompts) for index in range(point.batch)]
        limit = COMPARED_SLOW if self.is_slow and not knobs.uneven_steps(self.job.build) else None
        try:
            return denoiser.compare(
                self.pipe, lambda: self.one_call(point, prompts), Path(known.denoiser), point.batch, limit=limit
            ), None
        except Exception as error:
            free_memory()
            return None, _first_line(error)

    def one_call(self, point: Point, indices: Sequence[int]) -> object:
        """Generate one batch of the prompts with these indices."""
        self.alive()
        return pipeline.generate(
            self.pipe, self.workload, indices, self.call_arguments(point, point.batch), output_type="np"
        )

    def call_arguments(self, point: Point, batch: int) -> dict[str, Any]:
        """Return the arguments of a call that the knobs set."""
        return knobs.call_arguments({**self.job.build, "steps": point.steps, "batch": batch})

    def draws_same_noise(self) -> bool:
        """Return whether a seed means the same initial noise as for the baseline."""
        return not knobs.changes_noise(self.job.build, knobs.baseline(self.job.environment))


def scored_frames(drawn: Any, indices: Sequence[int]) -> Any:
    """Return the frames that are judged of what a pipeline generated, since many videos do not fit into memory.

    The other frames are only checked here. Raises InvalidImage.
    """
    if drawn.ndim > 4:
        guards.check_finite(drawn, indices)
    return select_frames(drawn)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]

"""Whole studies without processes: an inline executor whose worker is made up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from kinds import kind
from optuna.trial import Trial

from tuner.execution.inline import InlineExecutor
from tuner.hardware import environment
from tuner.records.codec import Estimate, read
from tuner.records.machine import Memory
from tuner.records.model import Model
from tuner.records.outcome import Build, Device, Failure, Limits, Outcome, Timing
from tuner.records.protocol import (
    BuildDone,
    CallTimed,
    Job,
    Message,
    Point,
    PointDone,
    PointFailed,
)
from tuner.records.quality import Quality
from tuner.result.prices import Price
from tuner.result.records import BestConfig
from tuner.search.request import Request
from tuner.search.strategies import DEFAULT
from tuner.space import reader
from tuner.study.course import keep_strategy
from tuner.study.devices import Check
from tuner.study.loop import Study
from tuner.study.store import Store
from tuner.tracking.tracker import Tracker

SMALL = """
pipelines: [FluxPipeline]
workload: {prompts: [a red circle, a blue square], height: 32, width: 32}
quality: {tolerance: 1.0}
baseline: {steps: 28, batch: 1}
"""
"""What the spaces of inline studies have in common."""

SPACE = f"""{SMALL}
knobs:
  attention.backend: [native, _native_math]
  cache.kind: [none, first-block]
  cache.threshold: [0.1]
  steps: [28, 20, 14, 10, 6]
recipes:
  - {{name: math, source: here, values: {{attention.backend: _native_math, steps: 14}}}}
"""
FIXED_S, PER_STEP_S = 0.5, 0.1
DEVICE = Device(name="cpu")


class Told:
    """A display that only remembers what was noted and recorded."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.outcomes: list[Outcome] = []
        self.limits: list[Limits] = []
        self.best: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def limited(self, limits: Limits) -> None:
        self.limits.append(limits)

    def front(self, points: Any, best: str) -> None:
        self.best.append(best)

    def trial_ended(self, outcome: Outcome, remark: str) -> None:
        self.outcomes.append(outcome)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class Workers:
    """The work of an inline executor: answers each job from `seconds` and `quality`, and remembers it."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.throttled: Callable[[Job, Point], bool] = lambda *_: False
        self.bad_steps: set[int] = set()
        self.first_call_s = 0.01

    def __call__(self, job: Job) -> Iterator[Message]:
        self.jobs.append(job)
        if job.is_baseline:
            yield CallTimed(steps=4, seconds=self.first_call_s)
        yield BuildDone(build=Build(changes={}, load_s=1.0, apply_s=0.0, first_call_s=1.0, trace=None, verdict=None))
        for point in job.points:
            if self.throttled(job, point):
                failure = Failure(kind="throttled", stage="time", message="6 of 6 calls were discarded")
                yield PointFailed(index=point.index, failure=failure)
            else:
                quality = self.quality(job, point) if point.score else None
                timing, memory = self.timing(job, point), Memory(peak_bytes=1 << 30, reserved_bytes=None)
                yield PointDone(index=point.index, timing=timing, memory=memory, quality=quality)

    def seconds(self, job: Job, point: Point) -> float:
        slower = 1.0 if job.build.get("attention.backend") == "native" else 0.8
        return slower * point.batch * (FIXED_S + PER_STEP_S * point.steps)

    def timing(self, job: Job, point: Point) -> Timing:
        target_s, seconds = job.workload.latency_target_s, self.seconds(job, point)
        latency = Estimate(value=seconds, low=seconds * 0.999, high=seconds * 1.001)
        return Timing(
            latency_s=latency, samples=0 if point.predict else 6, images_per_s=point.batch / seconds,
            stopped="predicted" if point.predict else "interval within target",
            predicted_from=(6, 28) if point.predict else None,
            within_target=None if target_s is None else float(seconds <= target_s),
        )  # fmt: skip

    def quality(self, job: Job, point: Point) -> Quality:
        mean = 30.0 - 0.01 * (28 - point.steps) - 5.0 * (point.steps in self.bad_steps)
        return Quality(
            metric="clip_score", scores=(mean, mean), mean=mean, psnr_db=None, ssim=None,
            difference=Estimate(value=mean - 30, low=mean - 30 - 0.05, high=mean - 30 + 0.05),
        )  # fmt: skip


class MemoryStudies:
    """Optuna's studies by folder, in memory: they outlive the stores that open them."""

    def __init__(self) -> None:
        self.studies: dict[Path, optuna.Study] = {}

    def open(self, folder: Path, afresh: bool = False) -> optuna.Study:
        if afresh or folder not in self.studies:
            self.studies[folder] = optuna.create_study(study_name=folder.name, directions=("minimize", "maximize"))
        self.studies[folder].sampler = optuna.samplers.RandomSampler(seed=0)
        return self.studies[folder]

    @staticmethod
    def write(
        study: optuna.Study, _: Path, number: int, attributes: Mapping[str, Any], values: Sequence[float] = ()
    ) -> None:
        assert not values, "what is corrected needs a database"
        for name, value in attributes.items():
            Trial(study, study.trials[number]._trial_id).set_user_attr(name, value)


class Bench:
    """Studies in one folder."""

    def __init__(self, folder: Path, workers: Workers) -> None:
        self.folder = folder
        self.work: Callable[[Job], Iterable[Message]] = workers
        self.price = Price(usd_per_hour=3.6, source="here")
        self.slots = 1
        self.trackers: dict[str, Tracker] = {}
        self.devices: tuple[Device, ...] = (DEVICE,)
        self.check: Check = lambda _: None
        self.strategy = DEFAULT
        (folder / "space.yaml").write_text(SPACE)

    def request(self, *settings: str) -> Request:
        here = environment.detect("cpu")
        return Request(
            model=Model(source="/model", revision=None, pipeline_class="FluxPipeline", scorer="/scorer"),
            environment=here,
            space=reader.load(self.folder / "space.yaml", kind(), here, settings),
            price=self.price,
        )

    @contextmanager
    def study(self, *settings: str, trials: int | None = 12, budget_s: float | None = 600.0) -> Iterator[Study]:
        with Store(self.folder / "study", self.request(*settings)) as store:
            keep_strategy(store, self.strategy, DEFAULT)
            self.told: Any = Told()
            self.executor = InlineExecutor(lambda job: self.work(job), self.devices, self.slots)
            limits = Limits(budget_s=budget_s, max_trials=trials)
            yield Study(store, limits, self.told, self.executor, self.check, self.trackers)

    def device_of(self, job: Job) -> Device:
        """The device that a job runs on."""
        return next(handle.device for handle in self.executor.running.values() if handle.job is job)

    def run(self, *settings: str, **limits: Any) -> BestConfig:
        with self.study(*settings, **limits) as found:
            return found.run()

    def outcomes(self) -> list[Outcome]:
        return [read(file, Outcome) for file in sorted((self.folder / "study").glob("trials/*/outcome.json"))]

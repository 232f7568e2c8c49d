"""One worker's job, and the events that its messages become."""

from __future__ import annotations

import math
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from tuner.execution.executor import StoodStill
from tuner.knobs import uneven_steps
from tuner.knobs.parallel import device_count
from tuner.quality.reference import baseline_reference
from tuner.records.codec import Estimate, Values
from tuner.records.outcome import Build, Device, Failure, Outcome, Purpose
from tuner.records.protocol import (
    BuildDone,
    CallTimed,
    Job,
    Message,
    NoiseFound,
    Point,
    PointDone,
    PointFailed,
    PointLeftOut,
    PointTimed,
    ReferenceWanted,
    StageStarted,
    WorkerFailed,
)
from tuner.records.quality import Quality, Reference, SpotCheck
from tuner.search.budget import Budget
from tuner.search.history import BASELINE, History
from tuner.search.plan import TimedCall, Work
from tuner.search.pruning import latency_to_beat_s
from tuner.space.candidates import build_key, build_values, image_key
from tuner.study import narration
from tuner.study.events import BaselineTimed, CallObserved, Event, NoiseFloorMeasured, Note, StageEntered, TrialEnded
from tuner.study.repetition import RepetitionAttempt
from tuner.study.slots import max_slots, share_of
from tuner.study.stops import stop_if_disk_full
from tuner.study.store import Store
from tuner.timing import prediction
from tuner.timing.measure import SLOW_CALL_S

DOMINATED = "a quicker one is as good as the untouched pipeline"
"""Why the images of a trial were not judged."""


class BuildAttempt:
    """One build of a candidate: its step sweep is measured on it, each point as a trial."""

    def __init__(
        self, store: Store, history: History, device: Device, number: int, sweep: Sequence[Values], purpose: Purpose,
        recipe: str | None = None,
    ) -> None:  # fmt: skip
        self.store = store
        self.history = history
        self.device = device
        self.number = number
        self.sweep = in_measuring_order(sweep)
        self.points = len(sweep)
        self.purpose = purpose
        self.recipe = recipe
        self.build: Build | None = None
        self.stage = "start"
        self.stood_still_s: defaultdict[str, float] = defaultdict(float)
        """By stage, the seconds in which the worker waited for its turn or stood still in another's."""
        self.index = 0
        self.settled: set[int] = set()
        self.reference_s = 0.0
        """Seconds that the baseline's images may take."""
        self.clock = self.submitted = time.monotonic()
        self.began: float | None = None
        """When the worker entered its first stage."""
        self.start_s = math.inf
        """Seconds from there to its first call that was timed."""

    @property
    def can_be_stopped(self) -> bool:
        """Whether what it has not measured yet can be left out: not while the baseline owes a part of its noise floor.

        That part comes last of all; there is none if calls are slow, or in float32 (`Scoring.compiled`).
        """
        baseline = self.history.outcomes.get(BASELINE)
        if self.purpose != "baseline" or baseline is None or baseline.timing is None:
            return True
        is_slow = baseline.timing.latency_s.value >= SLOW_CALL_S
        has_none = is_slow or self.sweep[0]["precision.dtype"] == "float32"
        return has_none or self.history.late_noise_floor is not None

    def job(self, budget: Budget) -> Job:
        """Return what the worker is asked to do."""
        request, is_baseline = self.store.request, self.purpose == "baseline"
        self.reference_s = budget.reference_s
        return Job(
            model=request.model,
            environment=request.environment,
            workload=self.history.judged_workload,
            build=build_values(self.sweep[0]),
            points=self._points(),
            reference=self._reference(),
            gate=self.history.space.gate,
            allowed=self.history.allowances(),
            quality=request.quality,
            tolerance=self.history.space.tolerance,
            is_baseline=is_baseline,
            probe=is_baseline,
            allowance_s=budget.timing_allowance_s,
            compile_limit_s=None if is_baseline else self.history.compile_limit_s,
            reference_s=self.reference_s if is_baseline else None,
            sweep_s=budget.sweep_s,
            awaits_reference=self.history.awaits_reference or self._is_judged_in_turn(),
        )

    def _is_judged_in_turn(self) -> bool:
        """Return whether the worker asks before it generates images: slow ones of one candidate at a time."""
        return BASELINE in self.history.outcomes and self.history.has_slow_calls

    def with_reference(self, job: Job) -> Job:
        """Return a job that waits for the baseline's images with these."""
        return msgspec.structs.replace(
            job, points=self._points(), reference=self._reference(), workload=self.history.judged_workload,
            awaits_reference=False,
        )  # fmt: skip

    def _points(self) -> tuple[Point, ...]:
        return tuple(self._point(index, values) for index, values in enumerate(self.sweep))

    def _point(self, index: int, values: Values) -> Point:
        steps = [int(point["steps"]) for point in self.sweep]
        return Point(
            index=index,
            folder=str(self.folder(index)),
            steps=int(values["steps"]),
            batch=int(values["batch"]),
            spot_check=self._spot_check(values),
            worth_s=self._worth_s(values),
            predict=int(values["steps"]) not in prediction.step_counts_to_measure(steps) and not uneven_steps(values),
        )

    def is_too_slow(self, seconds_per_image: Estimate) -> bool:
        """Return whether a quicker one is as good as the baseline, so that the images of the candidate tell nothing.

        The worker decides by the same rule when it has its job again.
        """
        values = self.sweep[0]
        worth_s = self._worth_s(values)
        return worth_s is not None and seconds_per_image.low * int(values["batch"]) > worth_s

    def _worth_s(self, values: Values) -> float | None:
        to_beat_s = latency_to_beat_s(self.history) if self._is_judged_in_turn() else None
        if to_beat_s is None:
            return None
        return int(values["batch"]) * to_beat_s / self.history.scale(self.device) / device_count(values)

    def _reference(self) -> Reference | None:
        baseline = self.history.outcomes.get(0)
        if baseline is None or baseline.quality is None:
            return None
        known = baseline_reference(self.store.paths.trial(0), baseline.quality)
        return msgspec.structs.replace(known, floor=self.history.quality_floor)

    def _spot_check(self, values: Values) -> SpotCheck | None:
        scored = self.history.scored(values)
        return SpotCheck(images=str(self.store.paths.images(scored.number))) if scored else None

    def folder(self, index: int) -> Path:
        """Return the trial's folder for the candidate, and one inside it for each other point of the sweep."""
        trial = self.store.paths.trial(self.number)
        return trial if index == 0 else trial / "sweep" / str(index)

    def handle(self, message: Message | StoodStill) -> Iterator[Event]:
        """Turn a message of the worker into events."""
        if isinstance(message, StoodStill):
            self.clock += message.seconds
            self.stood_still_s[self.stage] += message.seconds
        elif isinstance(message, StageStarted):
            self.stage = message.stage
            self.index = message.index or 0
            self.began = self.began or time.monotonic()
            is_of_point = message.index is not None and self.points > 1
            yield StageEntered(
                self.number, message.stage, int(self.sweep[self.index]["steps"]) if is_of_point else None
            )
        elif isinstance(message, CallTimed):
            yield self._observed(message)
        elif isinstance(message, BuildDone):
            self.build = without_standstill(message.build, self.stood_still_s)
            yield from self._judge(self.build)
        elif isinstance(message, PointTimed):
            yield BaselineTimed(self._timed(message))
            yield Note(narration.baseline_timed_text(message.timing.latency_s))
        elif isinstance(message, ReferenceWanted):
            if self.history.awaits_reference:
                yield Note(narration.waiting_text(self.history, self.number, message.seconds_per_image.value))
        elif isinstance(message, PointDone):
            yield from self._settle(message.index, self._measured(message), DOMINATED if message.is_dominated else "")
        elif isinstance(message, PointLeftOut):
            self.settled.add(message.index)
        elif isinstance(message, NoiseFound):
            yield NoiseFloorMeasured(message.noise)
        elif isinstance(message, PointFailed):
            yield from self._settle(message.index, self._failed(message.index, message.failure))
        elif isinstance(message, WorkerFailed):
            yield from self._end(message.failure)

    def _observed(self, message: CallTimed) -> CallObserved:
        began, devices = self.began or self.submitted, self.history.devices
        passed_s = time.monotonic() - began
        self.start_s = min(self.start_s, max(0.0, passed_s - message.seconds))
        return CallObserved(
            TimedCall(
                once_s=began - self.submitted,
                start_s=self.start_s,
                call_steps=message.steps,
                call_s=message.seconds,
                fixed_s=message.fixed_s,
            ),
            Work(
                steps=[int(values["steps"]) for values in self.sweep],
                prompts=len(self.history.space.workload.prompts),
                batch=int(self.sweep[0]["batch"]),
                device=self.store.request.environment.device,
                reference_s=self.reference_s,
                slots=max_slots(share_of(self.store.request.environment, devices)),
                devices=max(1, len(devices)),
            ),
            passed_s,
            message.size,
        )

    def close(self, *, is_recorded: bool = False, runs_again: bool = False) -> None:
        """Give back the candidate's trial unless its outcome `is_recorded`, and remove what is without a result.

        If it `runs_again` its trial stays open.
        """
        if not is_recorded:
            if not runs_again:
                self.store.abandon(self.number)
            shutil.rmtree(self.folder(0), ignore_errors=True)
        shutil.rmtree(self.folder(0) / "sweep", ignore_errors=True)

    def _end(self, failure: Failure) -> Iterator[Event]:
        stop_if_disk_full(failure, self.store.folder)
        if failure.stage == "vary":
            yield Note(
                f"the images of compiled blocks, a variation of rounding, could not be generated: {failure.message}"
            )
        index = self.index if 0 in self.settled else 0  # the build failed: the candidate stands for it
        yield from self._settle(index, self._failed(index, failure))

    def _judge(self, build: Build) -> Iterator[Event]:
        verdict = build.verdict
        if verdict is None or verdict.status == "clean" or self.purpose == "baseline":
            return
        if verdict.status == "rejected":
            yield from self._settle(0, self._outcome(0, status="rejected"))
        else:
            failure = Failure(kind="inconclusive trace", stage="trace", message="; ".join(verdict.skipped))
            yield from self._settle(0, self._failed(0, failure))

    def _measured(self, message: PointDone) -> Outcome:
        return self._outcome(
            message.index,
            status="measured",
            timing=message.timing,
            memory=message.memory,
            quality=None if message.is_dominated else message.quality or self._reused(message.index),
            cost_usd_per_1000_images=self.history.cost(message.timing),
            skipped_share=message.skipped_share,
        )

    def _timed(self, message: PointTimed) -> Outcome:
        """Return what is known of the baseline before its images are there; its clock goes on."""
        clock = self.clock
        cost = self.history.cost(message.timing)
        outcome = self._outcome(
            message.index, status="measured", timing=message.timing, memory=message.memory,
            cost_usd_per_1000_images=cost,
        )  # fmt: skip
        self.clock = clock
        return outcome

    def _reused(self, index: int) -> Quality | None:
        """Return the scores of another build with the same image key, whose images the worker found to be the same."""
        scored = self.history.scored(self.sweep[index])
        if scored is None or scored.quality is None:
            return None
        return msgspec.structs.replace(scored.quality, reused_from=scored.number, noise=None, spent_s=0.0)

    def _failed(self, index: int, failure: Failure) -> Outcome:
        return self._outcome(index, status="failed", failure=failure)

    def _outcome(self, index: int, **result: object) -> Outcome:
        now = time.monotonic()
        wall_s, self.clock = max(0.0, now - self.clock), now  # it may have stood still before its last result
        values = self.sweep[index]
        return Outcome(
            number=self.number,
            purpose=self.purpose,
            recipe=self.recipe,
            values=values,
            build_key=build_key(values),
            image_key=image_key(values),
            device=self.device,
            build=self.build,
            wall_s=wall_s,
            **result,  # type: ignore[arg-type]
        )

    def _settle(self, index: int, outcome: Outcome, remark: str = "") -> Iterator[Event]:
        """End a point, once."""
        if index in self.settled:
            return
        self.settled.add(index)
        reused = outcome.quality.reused_from if outcome.quality else None
        remark = f"images of trial {reused}" if reused is not None else remark
        yield TrialEnded(outcome, remark, None if index == 0 else self.folder(index))


Attempt = BuildAttempt | RepetitionAttempt


def in_measuring_order(sweep: Sequence[Values]) -> list[Values]:
    """Order a step sweep: the candidate, then the step counts that span the sweep, then those predicted from these."""
    spanning = prediction.step_counts_to_measure([int(values["steps"]) for values in sweep])
    return sorted(sweep, key=lambda values: int(values["steps"]) not in spanning)


def without_standstill(build: Build, stood_still_s: Mapping[str, float]) -> Build:
    """Return a build without the time in which its worker stood still, as others had the device to themselves."""
    first_s = stood_still_s["compile"] + stood_still_s["first call"]
    return msgspec.structs.replace(
        build,
        load_s=max(0.0, build.load_s - stood_still_s["load"]),
        apply_s=max(0.0, build.apply_s - stood_still_s["apply"]),
        first_call_s=max(0.0, build.first_call_s - first_s),
        compile_s=None if build.compile_s is None else max(0.0, build.compile_s - first_s),
    )

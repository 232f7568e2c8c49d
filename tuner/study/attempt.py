"""One worker process's messages, turned into the outcomes of trials."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tuner.errors import StorageFull, StudyFailed
from tuner.knobs import uneven_steps
from tuner.records.codec import Values
from tuner.records.outcome import Build, Failure, Outcome, Purpose
from tuner.records.protocol import (
    BuildDone,
    Job,
    Message,
    NoiseFound,
    Point,
    PointDone,
    PointFailed,
    StageStarted,
    WorkerFailed,
)
from tuner.records.quality import Quality
from tuner.space.candidates import build_key, build_values, image_key
from tuner.study.ledger import Ledger
from tuner.timing import prediction

MIN_FREE_BYTES = 1 << 20
"""With less room than this a worker's failure is the disk's, whatever it looks like."""


class Attempt:
    """One worker's row of call points, turned into outcomes as its messages come in."""

    def __init__(
        self, ledger: Ledger, number: int, row: Sequence[Values], purpose: Purpose, recipe: str | None
    ) -> None:
        self.ledger = ledger
        self.number = number
        self.row = in_order(row)
        self.to_measure = prediction.step_counts_to_measure([int(values["steps"]) for values in row])
        self.purpose = purpose
        self.recipe = recipe
        self.build: Build | None = None
        self.index = 0
        self.settled: set[int] = set()
        self.clock = time.monotonic()

    def job(self, allowance_s: float) -> Job:
        """What the worker is asked; `allowance_s` is how long it may time one point."""
        ledger = self.ledger
        request = ledger.store.request
        return Job(
            model=request.model,
            environment=request.environment,
            workload=ledger.space.workload,
            build=build_values(self.row[0]),
            points=tuple(self.point(index, values) for index, values in enumerate(self.row)),
            reference=ledger.reference(),
            gate=ledger.space.gate,
            allowed=ledger.allowed(),
            quality=request.quality,
            tolerance=ledger.tolerance,
            is_baseline=self.purpose == "baseline",
            probe=self.purpose == "baseline",
            allowance_s=allowance_s,
        )

    def point(self, index: int, values: Values) -> Point:
        return Point(
            index=index,
            folder=str(self.folder(index)),
            steps=int(values["steps"]),
            batch=int(values["batch"]),
            spot_check=self.ledger.spot_check(values),
            predict=int(values["steps"]) not in self.to_measure and not uneven_steps(values),
        )

    def folder(self, index: int) -> Path:
        """The trial's own folder for the candidate, one inside it for each other point until it has a number."""
        own = self.ledger.store.trial_folder(self.number)
        return own if index == 0 else own / "row" / str(index)

    def handle(self, message: Message) -> None:
        if isinstance(message, StageStarted):
            self.index = message.index or 0
            self.ledger.display.stage(message.stage)
        elif isinstance(message, BuildDone):
            self.build = message.build
            self.judge(message.build)
        elif isinstance(message, PointDone):
            self.settle(message.index, self.measured(message))
        elif isinstance(message, NoiseFound):
            self.ledger.record_noise_floor(message.noise)
        elif isinstance(message, PointFailed):
            if self.purpose == "baseline" and message.index == 0:
                stop_if_throttled(message.failure)
            self.settle(message.index, self.failed(message.index, message.failure))
        elif isinstance(message, WorkerFailed):
            stop_if_disk_full(message.failure, self.ledger.store.folder)
            if message.failure.stage == "vary":
                self.ledger.display.note(f"rounding by compiled blocks could not be drawn: {message.failure.message}")
            index = self.index if 0 in self.settled else 0  # the build failed, and the candidate is what it is known by
            self.settle(index, self.failed(index, message.failure))

    def judge(self, build: Build) -> None:
        verdict = build.verdict
        if verdict is None or verdict.status == "clean" or self.purpose == "baseline":
            return
        if verdict.status == "rejected":
            self.settle(0, self.outcome(0, status="rejected"))
        else:
            why = Failure(kind="inconclusive trace", stage="trace", message="; ".join(verdict.skipped))
            self.settle(0, self.failed(0, why))

    def measured(self, message: PointDone) -> Outcome:
        return self.outcome(
            message.index,
            status="measured",
            timing=message.timing,
            memory=message.memory,
            quality=message.quality or self.reused(message.index),
            cost_usd_per_1000_images=self.ledger.cost(message.timing),
        )

    def reused(self, index: int) -> Quality | None:
        """The scores of another build with the same image key, whose images the worker found again."""
        scored = self.ledger.scored(self.row[index])
        if scored is None or scored.quality is None:
            return None
        return msgspec.structs.replace(scored.quality, reused_from=scored.number, noise=None, spent_s=0.0)

    def failed(self, index: int, failure: Failure) -> Outcome:
        return self.outcome(index, status="failed", failure=failure)

    def outcome(self, index: int, **result: object) -> Outcome:
        now = time.monotonic()
        wall_s, self.clock = now - self.clock, now
        values = self.row[index]
        return Outcome(
            number=self.number if index == 0 else -1,
            purpose=self.purpose,
            recipe=self.recipe,
            values=values,
            build_key=build_key(values),
            image_key=image_key(values),
            build=self.build,
            wall_s=wall_s,
            **result,  # type: ignore[arg-type]
        )

    def settle(self, index: int, outcome: Outcome) -> None:
        """Record an outcome, once; a point other than the candidate becomes a trial of its own now."""
        if index in self.settled:
            return
        self.settled.add(index)
        if index > 0:
            outcome = msgspec.structs.replace(outcome, number=self.ledger.store.enter(self.row[index]))
            if self.folder(index).exists():
                self.folder(index).rename(self.ledger.store.trial_folder(outcome.number))
        reused = outcome.quality.reused_from if outcome.quality else None
        self.ledger.record(outcome, f"images of trial {reused}" if reused is not None else "")

    def close(self) -> None:
        """Give back the candidate's trial if nothing came of it, and clear away what points without a result left."""
        if 0 not in self.settled:
            self.ledger.store.abandon(self.number)
            shutil.rmtree(self.folder(0), ignore_errors=True)
        shutil.rmtree(self.folder(0) / "row", ignore_errors=True)


def in_order(row: Sequence[Values]) -> list[Values]:
    """The candidate first, then what spans the row's step counts, then those that are predicted from these."""
    spanning = prediction.step_counts_to_measure([int(values["steps"]) for values in row])
    return sorted(row, key=lambda values: int(values["steps"]) not in spanning)


class Repeat:
    """One more measurement of a trial's latency in a fresh process."""

    def __init__(self, ledger: Ledger, index: int, outcome: Outcome, beside: Outcome | None) -> None:
        self.ledger = ledger
        self.index = index
        self.original = outcome
        self.beside = beside
        self.done = False
        self.clock = time.monotonic()

    def job(self, folder: Path, allowance_s: float) -> Job:
        ledger, values = self.ledger, self.original.values
        request = ledger.store.request
        point = Point(index=0, folder=str(folder), steps=int(values["steps"]), batch=int(values["batch"]), score=False)
        return Job(
            model=request.model,
            environment=request.environment,
            workload=ledger.space.workload,
            build=build_values(values),
            points=(point,),
            trace=False,
            allowance_s=allowance_s,
        )

    def handle(self, message: Message) -> None:
        if isinstance(message, StageStarted):
            self.ledger.display.stage(message.stage)
        elif isinstance(message, PointDone):
            cost = self.ledger.cost(message.timing)
            self.keep(status="measured", timing=message.timing, memory=message.memory, cost_usd_per_1000_images=cost)
            self.done = True
        elif isinstance(message, (PointFailed, WorkerFailed)):
            stop_if_disk_full(message.failure, self.ledger.store.folder)
            self.keep(status="failed", failure=message.failure)

    def keep(self, **result: object) -> None:
        original = self.original
        outcome = Outcome(
            number=original.number,
            purpose="confirm",
            beside=self.beside.number if self.beside else None,
            values=original.values,
            build_key=original.build_key,
            image_key=original.image_key,
            wall_s=time.monotonic() - self.clock,
            **result,  # type: ignore[arg-type]
        )
        self.ledger.record_repeat(self.index, outcome)


def stop_if_throttled(failure: Failure) -> None:
    """A GPU that heat or its power supply holds back says nothing of the baseline, which the next run tries again."""
    if failure.kind == "throttled":
        said = f"the untouched pipeline could not be timed, the GPU is held back: {failure.message}"
        raise StudyFailed(f"{said}; run the same command again when it has recovered")


def stop_if_disk_full(failure: Failure, folder: Path) -> None:
    """A worker's failure on a full disk says nothing of its configuration, which the next run tries again."""
    if failure.kind == "disk full" or shutil.disk_usage(folder).free < MIN_FREE_BYTES:
        said = f"{folder}: the disk is full ({failure.message})"
        raise StorageFull(f"{said}; make room and run the same command again, every recorded trial is kept")

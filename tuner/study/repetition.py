"""The job of a worker that measures a trial again, and the events that its messages become."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tuner.execution.executor import StoodStill
from tuner.records.outcome import Device, Outcome, scored_prompts
from tuner.records.protocol import (
    Drawn,
    Job,
    Message,
    Point,
    PointDone,
    PointFailed,
    StageStarted,
    Standing,
    WorkerFailed,
)
from tuner.records.quality import Reference
from tuner.search.budget import Budget, has_long_calls
from tuner.search.history import BASELINE, History
from tuner.search.reference import images_of, largest_reference
from tuner.search.strategy import Proposal
from tuner.space.candidates import build_key, build_values, image_key
from tuner.study.events import Event, RepetitionEnded, StageEntered
from tuner.study.stops import stop_if_disk_full
from tuner.study.store import Store


class RepetitionAttempt:
    """One more measurement of a trial's latency in a fresh process, which may also judge images of more prompts."""

    can_be_stopped = False
    points = 1

    def __init__(
        self, store: Store, history: History, device: Device, repetition: int, proposal: Proposal,
        *, is_standing: bool = False,
    ) -> None:  # fmt: skip
        self.store = store
        self.history = history
        self.device = device
        self.repetition = repetition
        assert proposal.repeats is not None
        self.number = proposal.repeats
        self.values = proposal.values
        self.pair = proposal.pair
        self.prompts = proposal.prompts
        """How many prompts are judged; None if none are."""
        self.is_standing = is_standing
        """Whether the other one of its pair runs at the same time."""
        self.has_outcome = False
        self.clock = time.monotonic()

    def job(self, budget: Budget) -> Job:
        """Return what the worker is asked to do."""
        request, values, workload = self.store.request, self.values, self.history.space.workload
        folder = self.store.paths.repetition(self.repetition)
        return Job(
            model=request.model,
            environment=request.environment,
            workload=workload if self.prompts is None else workload.first(self.prompts),
            build=build_values(values),
            points=(
                Point(
                    index=0,
                    folder=str(folder),
                    steps=int(values["steps"]),
                    batch=int(values["batch"]),
                    score=self.prompts is not None,
                    whole=self.pair is not None or not has_long_calls(self.history),
                    drawn=self._drawn(),
                ),
            ),
            trace=False,
            allowance_s=budget.timing_allowance_s,
            standing=self._standing(),
            quality=request.quality,
            reference=self._reference(),
        )

    def _drawn(self) -> Drawn | None:
        """Return the images of most prompts that the trial has, or that its scores are from."""
        if self.prompts is None:
            return None
        outcomes = self.history.outcomes
        first = outcomes[outcomes[self.number].image_owner]
        later = [run for run in self.history.repetitions if outcomes[run.number].image_owner == first.number]
        owner = max([first, *later], key=scored_prompts)
        return Drawn(images=str(images_of(self.store.paths, owner)), prompts=scored_prompts(owner))

    def _reference(self) -> Reference | None:
        """Return what the images are judged against; None for the baseline's, which become that."""
        is_judged = self.prompts is not None and self.number != BASELINE
        return largest_reference(self.store.paths, self.history) if is_judged else None

    def _standing(self) -> Standing | None:
        """Return the place in the pair. In every second pair the candidate is the first."""
        if self.pair is None or not self.is_standing:
            return None
        is_baseline_first = self.pair.index % 2 == 0
        name = f"{self.pair.candidate} {self.pair.index}"
        return Standing(
            pair=name, is_first=(self.number == BASELINE) == is_baseline_first, is_brief=self.history.has_slow_calls
        )

    def handle(self, message: Message | StoodStill) -> Iterator[Event]:
        """Turn a message of the worker into events."""
        if self.has_outcome:
            return
        if isinstance(message, StoodStill):
            self.clock += message.seconds
        elif isinstance(message, StageStarted):
            yield StageEntered(self.number, message.stage)
        elif isinstance(message, PointDone):
            cost = self.history.cost(message.timing)
            yield self._ended(
                status="measured", timing=message.timing, memory=message.memory, quality=message.quality,
                cost_usd_per_1000_images=cost,
            )  # fmt: skip
        elif isinstance(message, (PointFailed, WorkerFailed)):
            stop_if_disk_full(message.failure, self.store.folder)
            yield self._ended(status="failed", failure=message.failure)

    def close(self, *, is_recorded: bool = False, runs_again: bool = False) -> None:
        """Do nothing: a repetition without a recorded outcome leaves nothing that counts."""

    def _ended(self, **result: object) -> RepetitionEnded:
        self.has_outcome = True
        outcome = Outcome(
            number=self.number,
            purpose="confirm",
            repetition=self.repetition,
            pair=self.pair,
            device=self.device,
            values=self.values,
            build_key=build_key(self.values),
            image_key=image_key(self.values),
            wall_s=max(0.0, time.monotonic() - self.clock),
            **result,  # type: ignore[arg-type]
        )
        return RepetitionEnded(outcome)

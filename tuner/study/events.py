"""What happens in a study, and the one place that publishes it: to the store, to TensorBoard and to the screen."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import singledispatchmethod
from pathlib import Path

import msgspec

from tuner.board import study_events, trial_events
from tuner.quality.metrics import get_metric
from tuner.records.codec import Values
from tuner.records.outcome import Outcome
from tuner.records.protocol import ImageSize
from tuner.records.quality import NoiseFloor
from tuner.report.conclusion import conclusion
from tuner.report.display import Display
from tuner.report.points import front_points
from tuner.search.budget import Budget
from tuner.search.confirmation import best_so_far
from tuner.search.gain import finalists, is_in_doubt
from tuner.search.history import BASELINE, History
from tuner.search.plan import TimedCall, Work
from tuner.study import narration
from tuner.study.slots import limit_compiling
from tuner.study.store import Store
from tuner.tracking.queue import TrackingQueue
from tuner.tracking.tracker import Tracker, trial_run


@dataclass(frozen=True)
class TrialStarted:
    """A worker starts to build a trial, or to repeat it. `points` counts the step counts that it measures."""

    number: int
    purpose: str
    values: Values
    points: int


@dataclass(frozen=True)
class StageEntered:
    """A trial's worker entered a stage, of one step count if the trial has several."""

    number: int
    stage: str
    steps: int | None = None


@dataclass(frozen=True)
class CallObserved:
    """A call of the baseline was timed, from which follows what the study will take.

    `passed_s` are the seconds since its worker began. `size` is that of an image, if it is known.
    """

    observed: TimedCall
    work: Work
    passed_s: float
    size: ImageSize | None = None


@dataclass(frozen=True)
class BudgetChosen:
    """The study takes the budget that suits its size: none was given."""

    budget_s: float


@dataclass(frozen=True)
class EndExpected:
    """A running trial will take so many more seconds."""

    number: int
    seconds: float


@dataclass(frozen=True)
class WorkerEnded:
    """Nothing more comes of a trial that was started."""

    number: int


@dataclass(frozen=True)
class WorkerStoodStill:
    """A worker could do nothing for so many seconds, until now: another had the device to itself."""

    number: int
    seconds: float


@dataclass(frozen=True)
class BaselineTimed:
    """The untouched pipeline is timed. Its trial ends when its images are there."""

    outcome: Outcome


@dataclass(frozen=True)
class TrialEnded:
    """A trial has its outcome.

    Another point of a build's step sweep is made a trial of its own by `Publisher.numbered`, before it is published:
    until then `folder` is where the worker put its files, and the outcome has its candidate's number.
    """

    outcome: Outcome
    remark: str = ""
    folder: Path | None = None


@dataclass(frozen=True)
class RepetitionEnded:
    """A repetition has its outcome."""

    outcome: Outcome


@dataclass(frozen=True)
class NoiseFloorMeasured:
    """One more part of the quality noise floor is known."""

    noise: NoiseFloor


@dataclass(frozen=True)
class CandidateRefused:
    """A candidate is invalid and costs nothing."""

    number: int
    values: Values
    reason: str


@dataclass(frozen=True)
class Note:
    """Something that the user should know."""

    text: str


@dataclass(frozen=True)
class TaskStarted:
    """Something other than a trial starts, with its only stage."""

    name: str
    stage: str


Event = (
    TrialStarted
    | StageEntered
    | CallObserved
    | BudgetChosen
    | EndExpected
    | WorkerEnded
    | WorkerStoodStill
    | BaselineTimed
    | TrialEnded
    | RepetitionEnded
    | NoiseFloorMeasured
    | CandidateRefused
    | Note
    | TaskStarted
)


class Publisher:
    """Writes every event to the store, keeps the history up to date, and shows it.

    An outcome is acknowledged on disk before anything else learns of it.
    """

    def __init__(
        self, store: Store, history: History, budget: Budget, display: Display, trackers: Mapping[str, Tracker]
    ) -> None:
        self.store = store
        self.history = history
        self.budget = budget
        limit_compiling(history, budget, store.request.environment)
        self.display = display
        self.writer = ThreadPoolExecutor(max_workers=1)
        self.written: Future[None] | None = None
        self.tracking = [TrackingQueue(name, tracker, display.note) for name, tracker in trackers.items()]
        self.tracked: set[int] = set()

    def numbered(self, event: Event) -> Event:
        """Return an event, that of another point of a build's step sweep with a trial of its own."""
        if not isinstance(event, TrialEnded) or event.folder is None:
            return event
        number = self.store.adopt(event.outcome.values, event.folder)
        return replace(event, outcome=msgspec.structs.replace(event.outcome, number=number), folder=None)

    @singledispatchmethod
    def publish(self, event: Event) -> None:
        """Publish an event."""
        raise TypeError(f"{event!r} is not an event")

    @publish.register
    def _(self, event: TrialStarted) -> None:
        changed = self.history.space.changed(event.values)
        self.display.trial_started(event.number, event.purpose, changed, event.points)

    @publish.register
    def _(self, event: StageEntered) -> None:
        self.display.stage(event.number, event.stage, event.steps)

    @publish.register
    def _(self, event: CallObserved) -> None:
        pass  # the planner makes a plan of it

    @publish.register
    def _(self, event: BudgetChosen) -> None:
        self.budget.limits = msgspec.structs.replace(self.budget.limits, budget_s=event.budget_s)
        limit_compiling(self.history, self.budget, self.store.request.environment)
        self.store.begin(self.budget.limits)
        self.display.limited(self.budget.limits)

    @publish.register
    def _(self, event: EndExpected) -> None:
        self.display.expected(event.number, event.seconds)

    @publish.register
    def _(self, event: WorkerEnded) -> None:
        self.display.worker_ended(event.number)

    @publish.register
    def _(self, event: WorkerStoodStill) -> None:
        self.display.stood_still(event.number, event.seconds)

    @publish.register
    def _(self, event: TaskStarted) -> None:
        self.display.task(event.name, event.stage)

    @publish.register
    def _(self, event: Note) -> None:
        self.display.note(event.text)

    @publish.register
    def _(self, event: BaselineTimed) -> None:
        self.history.outcomes[BASELINE] = event.outcome
        self.history.awaits_reference = True

    @publish.register
    def _(self, event: TrialEnded) -> None:
        assert event.folder is None, "it has no number of its own yet"
        outcome = event.outcome
        self.store.acknowledge(outcome)
        self.history.outcomes[outcome.number] = outcome
        if outcome.number == BASELINE:
            self.history.awaits_reference = False
        self._keep_time()
        self._write_board(outcome)
        self._track(outcome)
        is_on_front = any(point.number == outcome.number for point in finalists(self.history) if point.number)
        flags = outcome.quality.flags if outcome.quality else ()
        remarks = filter(None, (event.remark, "on the front" if is_on_front else "", *flags))
        self.display.trial_ended(outcome, "; ".join(remarks))
        self.show_front()

    @publish.register
    def _(self, event: RepetitionEnded) -> None:
        self.store.keep_repetition(event.outcome)
        self.history.repetitions.append(event.outcome)
        self._keep_time()
        trial = self.history.outcomes[event.outcome.number]
        self.store.correct(self.history.as_measured(trial))
        settled = self.history.settled(trial)
        self._write_board(settled)
        self._track(settled)
        judged = event.outcome.quality
        remark = f"judged on {len(judged.scores)} prompts" if judged else "repeated"
        self.display.trial_ended(event.outcome, f"{remark} in a fresh process")
        self.show_front()

    @publish.register
    def _(self, event: NoiseFloorMeasured) -> None:
        self.store.keep_noise_floor(event.noise)
        self.history.late_noise_floor = event.noise

    @publish.register
    def _(self, event: CandidateRefused) -> None:
        self.store.refuse(event.number, event.values, event.reason)
        self.history.refused.append(event.values)
        self.display.refused(self.history.space.changed(event.values), event.reason)

    def show_front(self) -> None:
        """Show what is known by now, if the baseline is."""
        if BASELINE not in self.history.outcomes:
            return
        best = best_so_far(self.history)
        self.display.front(front_points(self.history, best.number), narration.best_text(self.history, best))

    def show_result(self, chosen: Outcome, finalists: Sequence[Outcome]) -> None:
        """Mark the chosen trial and the finalists in TensorBoard, and remove the marks of an earlier result."""
        places: dict[int, trial_events.Place] = {
            outcome.number: "doubtful" if is_in_doubt(self.history, outcome) else "front" for outcome in finalists
        }
        places[chosen.number] = "chosen"
        self._await_board()
        settled = self.history.all_settled()
        for outcome in settled:
            folder, place = self.store.paths.trial(outcome.number), places.get(outcome.number)
            if place is None:
                trial_events.strip_path(folder).unlink(missing_ok=True)
            trial_events.write_row(folder, outcome, self.history.space, place)
            if place is not None or outcome.number not in self.tracked:
                self._track(outcome, place)
        request = self.store.request
        text = conclusion(request, self.history, chosen.number, self.store.folder)
        study_events.write(self.store.paths.trials, settled, places, get_metric(request.quality.metric).title, text)
        self._keep_time()

    def close(self) -> None:
        """Finish what is being written; while an exception ends the study, trackers are not waited for."""
        try:
            if self.store.finished is None:  # the run was interrupted: what it had not recorded took time, too
                self._keep_time()
            self._await_board()
        finally:
            self.writer.shutdown()
            for tracker in self.tracking:
                tracker.close(is_hurried=sys.exception() is not None)

    def _write_board(self, outcome: Outcome) -> None:
        """Write a trial's events for TensorBoard in another thread: to read and shrink large images takes seconds."""
        self._await_board()
        folder = self.store.paths.trial(outcome.number)
        self.written = self.writer.submit(trial_events.write, folder, outcome, self.history.space)

    def _track(self, outcome: Outcome, place: trial_events.Place = None) -> None:
        self.tracked.add(outcome.number)
        for tracker in self.tracking:
            tracker.add(trial_run(self.store.paths.trial(outcome.number), outcome, self.history.space, place))

    def _await_board(self) -> None:
        """Wait until nothing is being written. Raises the exception of the last write, once."""
        written, self.written = self.written, None
        if written is not None:
            written.result()

    def _keep_time(self) -> None:
        """Record the time that was used, so that a resumed study goes on with what is left of its budget."""
        self.store.spent_s = self.budget.spent_s

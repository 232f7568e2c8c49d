"""The course of a study: the baseline, search and confirmation, the result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing

from tuner.board import shown_traces
from tuner.errors import BadInput, StudyFailed
from tuner.execution.executor import Executor
from tuner.files import atomic_write
from tuner.numbers import format_clock
from tuner.records.codec import encode_pretty
from tuner.records.outcome import Limits, Outcome
from tuner.records.quality import Panel
from tuner.records.stages import read_stages
from tuner.report.display import Display
from tuner.report.formatting import pluralize
from tuner.report.result_check import result_problem
from tuner.report.running import unfinished_text
from tuner.report.time_account import unfinished
from tuner.result.config import read_best
from tuner.result.records import BestConfig
from tuner.search.baseline import Baseline, SearchAhead
from tuner.search.budget import Budget, has_reached, repetition_s
from tuner.search.confirmation import Confirmation, EarlyConfirmation, OpenDoubt
from tuner.search.gain import MIN_PAIRS, finalists, timing_noise
from tuner.search.history import BASELINE, History
from tuner.search.more_prompts import MorePrompts, generation_s
from tuner.search.recipes import InterruptedBuilds
from tuner.search.strategies import search
from tuner.search.strategy import FirstOf, SearchContext, Strategy
from tuner.study import narration, summary
from tuner.study.advising import find_advice, make_advice, take_advice
from tuner.study.attempt import Attempt
from tuner.study.course import building, strategy_of
from tuner.study.devices import Check
from tuner.study.events import (
    BaselineTimed,
    CallObserved,
    EndExpected,
    Event,
    Note,
    Publisher,
    RepetitionEnded,
    TaskStarted,
    TrialEnded,
    TrialStarted,
)
from tuner.study.finalists import judge_finalists, read_panel
from tuner.study.planner import Planner
from tuner.study.repetition import RepetitionAttempt
from tuner.study.runner import NEVER, Runner
from tuner.study.slots import max_slots, share_of, slots
from tuner.study.stage_log import LoggingExecutor, StageLog
from tuner.study.store import Store
from tuner.study.warm_start import read_warm_start
from tuner.tracking.tracker import Tracker

GO_ON = "give a longer --budget, or more --trials, to go on"


class Study:
    """One study, from the present state of its folder to its end."""

    def __init__(
        self, store: Store, limits: Limits, display: Display, executor: Executor, check: Check = lambda _: None,
        trackers: Mapping[str, Tracker] | None = None,
    ) -> None:  # fmt: skip
        """Read what a study has recorded. `check` says what is wrong with a device, if anything is."""
        self.store = store
        self.history = load_history(store)
        self.history.devices = list(executor.free())
        self.here = share_of(store.request.environment, self.history.devices)
        self.known_panel = read_panel(store)
        self.budget = Budget(limits, store.spent_s)
        self.stages = StageLog(store.paths.stages, self.budget)
        self.noted = [run for trial in self.history.outcomes.values() for run in self.history.disturbed(trial)]
        """The disturbed processes that the user knows of."""
        self.publisher = Publisher(store, self.history, self.budget, display, trackers or {})
        self.planner = Planner(self.budget, self.publisher)
        logging = LoggingExecutor(executor, self.stages)
        self.runner = Runner(self.publisher, logging, self.room, self.builds_end_at, self.follow, check)
        self.baseline = Baseline(self.budget)
        self.open_doubt = OpenDoubt(self.budget)
        self.confirmation = Confirmation(self.budget, self.note, self.report_confirmation)
        self.early = EarlyConfirmation(self.confirmation)
        confirmation = self.confirmation
        context = SearchContext(
            trials=store,
            is_over=confirmation.is_search_over,
            is_ending=confirmation.is_search_ending,
            best=lambda history: confirmation.shortlist(history)[0],
            note=self.note,
            seed=int(store.request.fingerprint(), 16),
            slots=max_slots(self.here),
            is_asked=limits.max_trials is not None,
        )
        searching = search(strategy_of(store), context)
        interrupted = InterruptedBuilds(context, building(store))
        self.runner.interrupted = lambda: interrupted.sweeps
        self.search = FirstOf([self.early, interrupted, MorePrompts(confirmation, self.note), searching])

    def run(self) -> BestConfig:
        """Do everything that is left to do. Raises StudyFailed if the baseline itself cannot be measured."""
        if self.history.outcomes:
            self.note(f"resumed, with {pluralize(len(self.history.outcomes), 'recorded trial')}")
            self.publisher.show_front()
        finished = self.finished_result()
        if finished is not None:
            self.note(f"this study is finished, it has used {format_clock(self.store.spent_s)}: {GO_ON}")
            with closing(self.publisher):
                return self.show_again(finished)
        self.store.begin(self.budget.limits)
        with self.stages.run(), closing(self.publisher), closing(self.runner):
            self.export_so_far()
            self.measure_baseline()
            return self.finish(self.choose())

    def measure_baseline(self) -> None:
        """Measure the untouched pipeline and its timing noise, and report both."""
        # The baseline was recorded by an earlier run: candidates may be built while it is repeated, and need advice.
        if BASELINE in self.history.outcomes:
            self.history.advice = find_advice(self.store, self.history)
        self.runner.exhaust(FirstOf([self.baseline, SearchAhead(self.search)]), self.baseline.is_done)
        self.planner.require_budget()
        stop_without_baseline(self.history, self.store)
        noise = timing_noise(self.history)
        assert noise is not None
        self.note(narration.noise_text(noise))
        for text in (
            *narration.device_texts(self.history),
            narration.noise_floor_text(self.history),
            *narration.allowance_texts(self.history),
        ):
            if text is not None:
                self.note(text)
        for text in take_advice(self.store, self.history):
            self.note(text)

    def choose(self) -> Outcome:
        """Search and confirm until a limit is reached. Time that a confirmation leaves over is searched, too."""
        if self.runner.is_idle:  # else the study has just begun, and no earlier run left anything open
            self.exhaust(self.open_doubt)
        while True:
            self.exhaust(self.search)
            has_nothing_new = not self.confirmation.is_search_over(self.history)
            self.exhaust(self.confirmation)
            if has_nothing_new or self.confirmation.is_search_over(self.history):
                break
        if all(outcome.build_key == self.history.baseline.build_key for outcome in self.history.outcomes.values()):
            left_s = self.confirmation.search_ends_at(self.history) - time.monotonic()
            self.note(narration.end_text(self.history, self.budget.trials_left(self.history), left_s))
        return self.confirmation.choose(self.history)

    def finish(self, chosen: Outcome) -> BestConfig:
        """Write best_config.json, first without the finalists' other metrics, and tidy the folder."""
        shown = [chosen, *finalists(self.history)]
        self.export(chosen, None, 0.0)
        self.report_unfinished()
        self.publisher.publish(TaskStarted("finalists", "judge"))
        started = time.monotonic()
        with self.stages.task("finalists", "judge"):
            panel = judge_finalists(self.store, self.history, shown, self.note)
        best = self.export(chosen, panel, time.monotonic() - started)
        self.publisher.show_result(chosen, shown)
        traced = [self.history.baseline, *shown]
        shown_traces.tidy(self.history.outcomes.values(), traced, self.store.paths.trial)
        if panel is not None:
            self.store.finished = self.budget.limits
        return best

    def export(self, chosen: Outcome, panel: Panel | None, panel_s: float) -> BestConfig:
        """Write best_config.json."""
        share = summary.quality_time_share(self.history, panel_s, self.budget.spent_s)
        return self.write(summary.best_config(self.store.request, self.history, chosen, panel, share))

    def write(self, best: BestConfig) -> BestConfig:
        """Write best_config.json as it is."""
        atomic_write(self.store.paths.best_config, encode_pretty(best))
        return best

    def export_so_far(self) -> None:
        """Write best_config.json with what may be chosen by now: a run that is killed leaves a valid one."""
        if 0 in self.history.outcomes and self.history.baseline.status == "measured":
            self.export(self.confirmation.choose(self.history), self.known_panel, 0.0)

    def show_again(self, best: BestConfig) -> BestConfig:
        """Log the trials of a finished study where asked to; at another price show and write its result again."""
        is_same = best.price == self.store.request.price
        chosen, share = self.history.outcomes[best.chosen.trial], best.quality_time_share or 0.0
        if self.publisher.tracking or not is_same:
            self.publisher.show_result(chosen, [chosen, *finalists(self.history)])
        if is_same:
            return best
        return self.write(summary.best_config(self.store.request, self.history, chosen, read_panel(self.store), share))

    # ---- what is run -------------------------------------------------------------------------------------------------

    def exhaust(self, strategy: Strategy) -> None:
        """Run what a strategy proposes until it has nothing more to propose."""
        self.runner.exhaust(strategy)

    def room(self, waiting: int) -> int:
        """Return how many workers may live on a device at once when so many wait to be judged."""
        return slots(self.here, self.history.outcomes.get(0), waiting)

    def builds_end_at(self) -> float:
        """Return when builds are stopped. They may use the time reserved for pairs beyond the least number."""
        is_known = BASELINE in self.history.outcomes
        return self.confirmation.search_ends_at(self.history, MIN_PAIRS) if is_known else NEVER

    def follow(self, attempt: Attempt, event: Event) -> None:
        """Do what follows from an event of an attempt."""
        if isinstance(event, TrialStarted) and isinstance(attempt, RepetitionAttempt):
            self.publisher.publish(EndExpected(attempt.number, self.repetition_s(attempt)))
        if isinstance(event, CallObserved):
            self.planner.observe(event)
        if isinstance(event, BaselineTimed):
            self.history.advice = make_advice(self.store, self.history)
        if isinstance(event, (TrialEnded, RepetitionEnded)):
            self.export_so_far()
        if isinstance(event, RepetitionEnded):
            self.report_disturbances(self.history.outcomes[event.outcome.number])

    # ---- before and after -------------------------------------------------------------------------------------------

    def finished_result(self) -> BestConfig | None:
        """Return the result of the last run if its limits were as wide as these and it came to its end."""
        limits, asked = self.store.finished, self.budget.limits
        if limits is None or not has_reached(limits, asked, self.store.spent_s):
            return None
        try:
            best = read_best(self.store.paths.best_config)
        except BadInput:
            return None
        return best if result_problem(best, self.store.request, self.history) is None else None

    def note(self, text: str) -> None:
        """Tell the user something."""
        self.publisher.publish(Note(text))

    def repetition_s(self, attempt: RepetitionAttempt) -> float:
        """Estimate the seconds of a repetition; for the first one of the baseline by the plan, 0 if unknown."""
        original = self.history.outcomes.get(attempt.number)
        if original is None:
            return self.planner.repetition_s
        images_s = generation_s(self.history, original, attempt.prompts) if attempt.prompts else 0.0
        return (repetition_s(self.history, original) or self.planner.repetition_s) + images_s

    def report_disturbances(self, trial: Outcome) -> None:
        """Report the processes of a trial that are now known to have been disturbed."""
        for run in [run for run in self.history.disturbed(trial) if run not in self.noted]:
            self.noted.append(run)
            self.note(narration.disturbance_text(self.history, run))

    def report_unfinished(self) -> None:
        """Report the trials that were begun and have no result."""
        text = unfinished_text(unfinished(read_stages(self.store.paths.stages), self.history))
        if text:
            self.note(text)

    def report_confirmation(self, candidate: Outcome) -> None:
        """Report what the pairs of a candidate showed."""
        for text in narration.confirmation_texts(self.history, candidate):
            self.note(text)


def load_history(store: Store) -> History:
    """Return what a study has recorded so far."""
    outcomes = store.outcomes()
    return History(
        space=store.request.space,
        price=store.request.price,
        outcomes=outcomes,
        repetitions=store.repetitions(outcomes),
        refused=[refusal.values for refusal in store.refusals()],
        late_noise_floor=store.noise_floor(),
        warm_start=read_warm_start(store),
    )


def stop_without_baseline(history: History, store: Store) -> None:
    """Raise StudyFailed unless the baseline was measured, and once more in a second process."""
    baseline = history.outcomes.get(0)
    if baseline is None:
        raise StudyFailed("the baseline was not measured; run the same command again")
    if baseline.status != "measured":
        reason = baseline.failure.message if baseline.failure else "it was not measured"
        remedy = baseline.failure.remedy if baseline.failure else None
        log = store.paths.trial(0) / "worker.log"
        raise StudyFailed(
            f"the baseline, the untouched pipeline, has no result: {reason} (see {log}); "
            f"{f'try {remedy}' if remedy else 'the same command tries it again'}"
        )
    if not history.repetitions_of(baseline):
        raise StudyFailed("the baseline was measured once and failed in a second process; run the command again")

"""The loop of a study: baseline, recipes, search, confirmation, export. Every line of it is about trials."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tuner.board import shown_traces
from tuner.errors import BadInput, StudyFailed
from tuner.execution import process
from tuner.files import atomic_write
from tuner.records.codec import Estimate, Values, encode_pretty, read
from tuner.records.outcome import Limits, Outcome, Purpose
from tuner.records.quality import Panel
from tuner.report import formatting
from tuner.report.live import Display
from tuner.result import config, front
from tuner.result.config import BestConfig
from tuner.space.candidates import Recipe
from tuner.study.attempt import Attempt, Repeat
from tuner.study.finalists import examine as finalists_panel
from tuner.study.ledger import CONFIRMATIONS, Ledger, was_throttled
from tuner.study.store import Store

IDLE_ASKS = 200
"""Candidates in a row that were tried before, after which the sampler has nothing new to say."""

NOISY = 0.1
"""The coefficient of variation of the baseline's processes above which the user is warned."""

TURNS_KEPT = CONFIRMATIONS + 1
"""Turns of baseline and candidate for which the search leaves time. Two left gains of 1.4x to 2.2x in doubt on a noisy
machine; the time of a third that is not needed is searched afterwards."""

MAX_BASELINES = 4
"""Fresh processes of the baseline at the start, if they are quick."""

BASELINES_SHARE = 0.05
"""Of the budget: what the baseline's processes beyond the second may take, with the second."""

MIN_CALLS = 12
"""Of a repeated measurement: about five to warm up, six that are timed, and one to see where the time goes."""

CACHED_SHARE = 0.4
"""Of a first call's time: what it takes where the compiler's cache has the code. Measured: 0.27 (the demo compiled
whole, on a CPU) to 0.41 (FLUX.1-dev's blocks, on an H200)."""

MAX_CONFIRMATIONS = 6
"""Turns of baseline and candidate, after which a gain that is still in doubt is given up."""

NEVER = float("inf")


class Study:
    """One study from its folder's present state to its end."""

    def __init__(self, store: Store, limits: Limits, display: Display) -> None:
        self.store = store
        self.limits = limits
        self.display = display
        self.space = store.request.space
        self.ledger = Ledger(store, display)
        self.in_vain: set[int] = set()
        """What this run measured again without becoming sure of it."""

    def run(self) -> BestConfig:
        """Everything that is left to do. Raises StudyFailed when the baseline itself cannot be measured."""
        if self.ledger.outcomes:
            self.display.note(f"resumed, with {formatting.pluralize(len(self.ledger.outcomes), 'recorded trial')}")
        finished = self.finished()
        if finished is not None:
            self.display.note("this study is finished: give a longer --budget, or more --trials, to go on")
            return finished
        self.store.finished = None
        self.measure_baseline()
        return self.finish(self.search_and_confirm())

    # ---- stations ---------------------------------------------------------------------------------------------------

    def measure_baseline(self) -> None:
        """Trial 0, the untouched pipeline, and again in fresh processes: their spread is the timing noise (A/A)."""
        if 0 not in self.ledger.outcomes:
            values = self.space.candidate({})
            self.try_candidate(self.store.enter(values), values, "baseline")
        baseline = self.ledger.outcomes.get(0)
        if baseline is None:
            raise StudyFailed("the baseline was not measured; run the same command again")
        if baseline.status != "measured":
            said = baseline.failure.message if baseline.failure else "it was not measured"
            log = self.store.trial_folder(0) / "worker.log"
            raise StudyFailed(
                f"the baseline, the untouched pipeline, has no result: {said} (see {log}); "
                "the same command tries it again"
            )
        if not self.ledger.repeats_of(baseline) and not self.repeat(baseline):
            raise StudyFailed("the baseline was measured once and failed in a second process; run the command again")
        while self.can_repeat_baseline() and self.repeat(baseline):
            pass
        self.tell_noise()
        self.tell_noise_floor()
        for own in self.ledger.allowed():
            self.display.note(f"the untouched pipeline itself has {own.count_per_step:g} {own.kind} a step: allowed")

    def tell_end(self) -> None:
        """Say why nothing but the baseline, and what is recorded, can be had."""
        left, quickest = max(0.0, self.search_until() - time.monotonic()), self.quickest_build_s()
        if self.trials_left():
            took = f"the quickest build so far took {quickest:.0f} s"
            reason = f"{left:.0f} s are left to search, and {took}: give a longer --budget"
        else:
            reason = "the number of trials is reached: give more --trials"
        self.display.note(f"nothing more is tried: {reason}")

    def can_repeat_baseline(self) -> bool:
        """Whether another process of it would still be a small part of the budget."""
        walls = [repeat.wall_s for repeat in self.ledger.repeats_of(self.ledger.baseline)]
        return len(walls) + 1 < MAX_BASELINES and sum(walls) + max(walls) <= BASELINES_SHARE * self.limits.budget_s

    def tell_noise(self) -> None:
        """Say by how much the baseline's processes disagree, plainly where that hides gains that people look for."""
        noise = self.ledger.noise()
        assert noise is not None
        spread = f"{noise.coefficient_of_variation:.2%} between {noise.processes} processes of the baseline"
        if noise.coefficient_of_variation > NOISY:
            said = f"this machine is noisy: latency varies by {spread}, so will the rest"
            self.display.note(f"{said}; does something else run on it?")
        else:
            self.display.note(f"timing noise: {spread} (coefficient of variation)")

    def tell_noise_floor(self) -> None:
        """Say why it is not known, if it is not."""
        if self.ledger.quality_floor is None:
            reasons = "; ".join(lack for noise in self.ledger.noise_floors() for lack in noise.unavailable_reasons)
            self.display.note(
                f"by how much rounding alone moves the score is not known: {reasons or 'nothing to vary'}"
            )

    def search_and_confirm(self) -> Outcome:
        """The configuration to choose. What a confirmation leaves of the time that was kept for it is searched, too."""
        doubtful = self.in_doubt()
        if doubtful is not None:  # of an earlier run: what was given for more turns does not go into other candidates
            self.take_turns(doubtful, MAX_CONFIRMATIONS)
        while True:
            for recipe in self.space.recipes:
                self.try_recipe(recipe)
            is_exhausted = not self.search()
            chosen = self.confirm()
            if is_exhausted or self.is_over():
                break
        if all(outcome.build_key == self.ledger.baseline.build_key for outcome in self.ledger.outcomes.values()):
            self.tell_end()
        return chosen

    def try_recipe(self, recipe: Recipe) -> None:
        """An expert's configuration, unless it was tried before or is invalid here."""
        values = self.space.candidate(recipe.values)
        if self.is_over() or self.ledger.known(values) is not None:
            return
        refusal = self.space.conflict_reason(values)
        if refusal:
            if not any(known.values == values for known in self.store.refusals()):
                self.ledger.refuse(self.store.enter(values), values, refusal)
            return
        self.try_candidate(self.store.enter(values), values, "recipe", recipe.name)

    def search(self) -> bool:
        """Ask the sampler, try, tell, until a limit is reached; False where it has nothing new to propose."""
        idle = 0
        while not self.is_over() and idle < IDLE_ASKS:
            if self.retry_throttled():
                continue
            number, values = self.store.ask()
            known, refusal = self.ledger.known(values), self.space.conflict_reason(values)
            if refusal:
                self.ledger.refuse(number, values, refusal)
            elif known is not None:
                self.store.duplicate(number, known.number)
            else:
                self.try_candidate(number, values, "search")
                idle = -1
            idle += 1
        if idle >= IDLE_ASKS:
            self.display.note(f"the last {IDLE_ASKS} candidates were all known or invalid: the search ends early")
        return idle < IDLE_ASKS

    def retry_throttled(self) -> bool:
        """Try a candidate again whose calls were all held back by heat or the power supply, once. False without one."""
        throttled = self.ledger.to_retry()
        if throttled is None:
            return False
        self.display.note(f"trial {throttled.number} was throttled: its configuration is tried again")
        number, values = self.store.enter(throttled.values), throttled.values
        self.try_candidate(number, values, throttled.purpose, throttled.recipe)
        return True

    def confirm(self) -> Outcome:
        """The cheapest configuration that is as good as the baseline and, measured again, surely faster; else the
        baseline. What measuring again showed counts in that order. The first is measured again whatever the time, but
        not while another is sure already."""
        while True:
            order = self.in_question()
            first = order[0]
            if self.ledger.is_confirmed(first):
                return self.ledger.outcomes[first.number]
            sure = next(outcome.number for outcome in order if self.ledger.is_confirmed(outcome))
            if (self.in_vain or sure) and not self.can_confirm(first):
                self.display.note("no time is left to confirm a cheaper configuration")
                return self.ledger.outcomes[sure]
            self.measure_again(self.ledger.outcomes[first.number])
            if not self.ledger.is_confirmed(first):
                self.in_vain.add(first.number)
            self.tell_confirmation(first)

    def in_question(self) -> list[Outcome]:
        """What may be chosen, the cheapest first: the baseline, and what is sure or was not measured again in vain."""
        baseline = self.ledger.baseline
        found = [o for o in self.by_preference() if o.number not in self.in_vain or self.ledger.is_confirmed(o)]
        return found if any(outcome.number == baseline.number for outcome in found) else [*found, baseline]

    def by_preference(self) -> list[Outcome]:
        """What is as good as the baseline, the cheapest by what is known now first."""
        settled = [self.ledger.settled(outcome) for outcome in self.ledger.outcomes.values()]
        return front.eligible(settled, self.ledger.tolerance)

    def tell_confirmation(self, candidate: Outcome) -> None:
        """Say what measuring a candidate again showed, where that is not what was expected."""
        self.tell_prediction(candidate)
        if not front.meets_target(self.ledger.settled(candidate)):
            self.display.note(f"trial {candidate.number}: it missed the latency target when it was measured again")
        elif len(self.ledger.confirmations_of(candidate)) < CONFIRMATIONS:
            self.display.note(f"trial {candidate.number}: it could not be measured again")
        elif not self.ledger.is_confirmed(candidate):
            gain = gain_text(self.ledger.speed_up(candidate))
            self.display.note(f"trial {candidate.number}: measured again it had {gain}, which is not surely more")

    def tell_prediction(self, candidate: Outcome) -> None:
        """Say how well a predicted latency held, once it was measured."""
        for check in self.ledger.predictions():
            if check.trial == candidate.number:
                verdict = "which intervals and noise explain" if check.held else "more than intervals and noise explain"
                said = f"predicted {formatting.format_latency(check.predicted_s.value)}"
                measured = f"measured {formatting.format_latency(check.measured_s.value)}, {check.error:+.2%}"
                self.display.note(f"trial {candidate.number}: {said}, {measured}, {verdict}")

    def can_confirm(self, candidate: Outcome) -> bool:
        """Whether a candidate was measured again already, or there is time for it."""
        return bool(self.ledger.confirmations_of(candidate)) or self.seconds_left() >= self.confirmation_s(candidate)

    def measure_again(self, candidate: Outcome) -> None:
        """Baseline and candidate in turns, each time in a fresh process.

        The gain is looked at twice at most, since each further look would find one by chance more often.
        """
        self.take_turns(candidate, CONFIRMATIONS)
        if not self.ledger.is_confirmed(candidate):
            self.take_turns(candidate, MAX_CONFIRMATIONS)

    def take_turns(self, candidate: Outcome, wanted: int) -> None:
        """Until there are so many turns, or those beyond the least have no time left."""
        while (turns := len(self.ledger.confirmations_of(candidate))) < wanted:
            if turns >= CONFIRMATIONS and self.seconds_left() < self.turn_s(candidate):
                return
            if not self.repeat(self.ledger.baseline, beside=candidate) or not self.repeat(candidate, beside=candidate):
                return

    def finish(self, chosen: Outcome) -> BestConfig:
        """Write best_config.json, first without the finalists' other metrics, and tidy the folder."""
        finalists = [chosen, *self.ledger.front()]
        atomic_write(self.best_config, encode_pretty(self.result(chosen, None)))
        self.display.task("finalists", "judge")
        started = time.monotonic()
        panel = finalists_panel(self.ledger, finalists)
        self.ledger.panel_s = time.monotonic() - started
        best = self.result(chosen, panel)
        atomic_write(self.best_config, encode_pretty(best))
        self.ledger.show_result(chosen, finalists)
        shown_traces.tidy(self.ledger.outcomes.values(), [self.ledger.baseline, *finalists], self.store.trial_folder)
        self.ledger.keep_time()
        if panel is not None:
            self.store.finished = self.limits
        return best

    def result(self, chosen: Outcome, panel: Panel | None) -> BestConfig:
        """What is exported."""
        request = self.store.request
        return BestConfig(
            created_at=config.utc_now(),
            tuner_version=config.package_version(),
            model=request.model,
            environment=request.environment,
            workload=self.space.workload,
            price=request.price,
            quality_metric=request.quality.metric,
            quality_tolerance=self.ledger.tolerance,
            quality_floor=self.ledger.quality_floor,
            quality_unavailable_reasons=panel.unavailable_reasons if panel else {},
            quality_time_share=self.ledger.quality_time_share(),
            baseline=self.ledger.point(self.ledger.baseline, panel),
            chosen=self.ledger.point(chosen, panel),
            speed_up=self.ledger.speed_up(chosen),
            speed_up_confirmed=self.ledger.is_confirmed(chosen),
            front=tuple(self.ledger.point(outcome, panel) for outcome in self.ledger.front()),
            trials=config.count_trials(list(self.ledger.outcomes.values()), len(self.store.refusals())),
            timing_noise=self.ledger.noise(),
            predictions=tuple(self.ledger.predictions()),
            roofline=self.ledger.roofline(),
        )

    # ---- one build --------------------------------------------------------------------------------------------------

    def try_candidate(self, number: int, values: Values, purpose: Purpose, recipe: str | None = None) -> None:
        """Build a candidate in a fresh process, measure it, and with it the other step counts of the same build. The
        baseline itself is measured however long it takes."""
        row = [values] + [other for other in self.space.step_sweep(values)[1:] if self.ledger.known(other) is None]
        row = row[: self.trials_left()]
        self.display.trial_started(number, purpose, self.space.changed(values), len(row))
        attempt = Attempt(self.ledger, number, row, purpose, recipe)
        folder = self.store.trial_folder(number)
        try:
            job = attempt.job(self.allowance_s())
            patience_s = NEVER if purpose == "baseline" else self.compile_deadline_s()

            def stop_at() -> float:  # a build that has started may go on into the third turn's time
                return self.search_until(CONFIRMATIONS) if self.ledger.outcomes else NEVER

            process.run(job, folder, self.store.cache, stop_at, attempt.handle, patience_s)
        except process.BudgetSpent:
            rest = "what is left of the time is for the confirmation" if self.seconds_left() > 1.0 else "the time is up"
            self.display.note(f"trial {number} was stopped: {rest}")
        finally:
            attempt.close()

    def repeat(self, outcome: Outcome, beside: Outcome | None = None) -> bool:
        """Measure a trial's latency again in a fresh process, in turns with another's, and once more if it was
        throttled. False when that failed."""
        return self.repeat_once(outcome, beside) or (
            was_throttled(self.ledger.repeats[-1]) and self.repeat_once(outcome, beside)
        )

    def repeat_once(self, outcome: Outcome, beside: Outcome | None) -> bool:
        index = len(self.ledger.repeats)
        self.display.trial_started(outcome.number, "confirm", self.space.changed(outcome.values), 1)
        folder = self.store.repeat_folder(index)
        attempt = Repeat(self.ledger, index, outcome, beside)
        process.run(attempt.job(folder, self.allowance_s()), folder, self.store.cache, lambda: NEVER, attempt.handle)
        return attempt.done

    # ---- limits -----------------------------------------------------------------------------------------------------

    @property
    def best_config(self) -> Path:
        return self.store.folder / "best_config.json"

    def finished(self) -> BestConfig | None:
        """The result of the last run, if that had limits as wide as these and came to its end."""
        limits = self.store.finished
        if limits is None or not limits.cover(self.limits):
            return None
        try:
            best = read(self.best_config, BestConfig)
        except BadInput:
            return None
        known = {number: outcome.values for number, outcome in self.ledger.outcomes.items()}
        points = (best.baseline, best.chosen, *best.front)
        return best if all(known.get(point.trial) == point.values for point in points) else None

    def is_over(self) -> bool:
        """Whether a limit is reached, or too little time is left even for a quick build; a slow one is stopped when the
        time for the confirmation comes."""
        if not self.trials_left():
            return True
        return self.search_until() - time.monotonic() < 0.7 * self.quickest_build_s()

    def trials_left(self) -> int:
        """How many more trials may be recorded."""
        return max(0, (self.limits.max_trials or sys.maxsize) - len(self.ledger.outcomes))

    def seconds_left(self) -> float:
        """Of the budget."""
        return self.ledger.started + self.limits.budget_s - time.monotonic()

    def search_until(self, turns: int = TURNS_KEPT) -> float:
        """The time.monotonic() at which searching must end to leave time for so many turns of the confirmation."""
        until = self.ledger.started + self.limits.budget_s
        first = self.in_question()[0]
        if self.ledger.baseline.status != "measured" or (first.number and self.ledger.is_confirmed(first)):
            return until
        return until - self.confirmation_s(first, turns)

    def confirmation_s(self, candidate: Outcome, turns: int = CONFIRMATIONS) -> float:
        """Seconds that the turns which a candidate lacks will take, from what building and timing it took."""
        return max(0, turns - len(self.ledger.confirmations_of(candidate))) * self.turn_s(candidate)

    def turn_s(self, candidate: Outcome) -> float:
        """Seconds that measuring the baseline and a candidate again will take."""
        return self.repeat_s(candidate) + self.repeat_s(self.ledger.baseline)

    def repeat_s(self, outcome: Outcome) -> float:
        """Seconds that measuring a trial again will take: what it took, or what the baseline took and it takes more."""
        assert outcome.build is not None and outcome.timing is not None
        baseline = self.ledger.baseline
        walls = [repeat.wall_s for repeat in self.ledger.repeats_of(outcome)]
        if walls or outcome.number == baseline.number:
            return max(walls, default=0.0)
        assert baseline.timing is not None
        slower_s = max(0.0, outcome.timing.latency_s.value - baseline.timing.latency_s.value)
        return self.repeat_s(baseline) + CACHED_SHARE * outcome.build.first_call_s + MIN_CALLS * slower_s

    def quickest_build_s(self) -> float:
        """Seconds that the quickest build so far took until its first point was measured, or it was rejected. Of the
        baseline, which also drew what others are judged against, a repetition counts: no build is quicker."""
        first: dict[str, float] = {}
        for outcome in (*self.ledger.repeats_of(self.ledger.baseline), *self.ledger.outcomes.values()):
            if outcome.status != "failed":
                first.setdefault(outcome.build_key, outcome.wall_s)
        return min(first.values(), default=0.0)

    def compile_deadline_s(self) -> float:
        """A configuration that takes a quarter of the budget to compile leaves too little to learn anything else."""
        return max(self.limits.budget_s / 4, 60.0)

    def allowance_s(self) -> float:
        """Seconds that timing one point may take."""
        return min(max(self.limits.budget_s / 150, 2.0), 20.0)

    # ---- telling -----------------------------------------------------------------------------------------------------

    def conclusion(self, chosen: int) -> str:
        """What to do with the result, in a few lines."""
        folder = self.store.folder
        best = self.ledger.outcomes[chosen]
        gain = self.ledger.speed_up(best)
        configuration = formatting.label(self.space.changed(best.values))
        if chosen:
            verdict = f"trial {chosen}, {gain_text(gain)}: {configuration}"
        elif len(self.ledger.outcomes) == 1:
            verdict = "the baseline: nothing else was tried"
        elif front.meets_target(self.ledger.settled(best)):
            verdict = f"the baseline: no other configuration was both as good and surely cheaper{self.doubt_text()}"
        else:
            verdict = "the baseline, although it misses the latency target: nothing that meets it was as good"
        return "\n".join(
            (
                f"Chosen   {verdict}",
                f"As good  means a {self.ledger.metric_title} above the baseline's less {self.ledger.tolerance:g}"
                f"{self.in_floors()}, with 95 % confidence",
                f"Use it   tuner.load({str(folder / 'best_config.json')!r})",
                f"Look     tune board {folder}",
            )
        )

    def in_doubt(self) -> Outcome | None:
        """The first configuration that measuring again left in doubt, if more of it could tell."""
        for candidate in self.by_preference():
            if candidate.number == self.ledger.baseline.number:
                break
            gain, turns = self.ledger.speed_up(candidate), len(self.ledger.confirmations_of(candidate))
            if CONFIRMATIONS <= turns < MAX_CONFIRMATIONS and gain.low <= 1.0 < gain.high:
                return candidate
        return None

    def doubt_text(self) -> str:
        """What was left in doubt, and what a longer budget is for."""
        candidate = self.in_doubt()
        if candidate is None:
            return ""
        said = f"trial {candidate.number} had {gain_text(self.ledger.speed_up(candidate))}"
        return f"; {said}: a longer --budget measures it more often, {self.turn_s(candidate):.0f} s a time"

    def in_floors(self) -> str:
        """The tolerance in units of what rounding alone does, where that is anything."""
        floor = self.ledger.quality_floor
        return f" ({self.ledger.tolerance / floor:.3g} times what rounding moves it by)" if floor else ""


def gain_text(gain: Estimate) -> str:
    """A speed-up as the user is told of it."""
    return f"{gain.value:.2f}x the baseline's throughput [{gain.low:.2f}, {gain.high:.2f}]"

"""The strategy that makes sure of a gain: baseline and candidate in pairs of fresh processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tuner.records.outcome import Device, Outcome, Pair
from tuner.result import front
from tuner.search.baseline import Failures
from tuner.search.budget import (
    MAX_RESERVED_SHARE,
    Budget,
    has_long_calls,
    lone_repetition_s,
    pair_s,
    quickest_build_s,
    repetition_s,
)
from tuner.search.gain import (
    MAX_PAIRS,
    MIN_PAIRS,
    PLAIN_GAIN,
    RESERVED_PAIRS,
    is_confirmed,
    is_in_doubt,
    may_gain,
    speed_up,
    timing_noise,
)
from tuner.search.history import BASELINE, History
from tuner.search.remembering import remembered
from tuner.search.simplicity import simplest_first
from tuner.search.strategy import Proposal, Strategy, repetition

LAST_SHARE = 0.25
"""The share of the budget, or of the trials, in which settings are taken out of the best configuration."""

MIN_EARLY_GAIN = 1.1
"""The gain that is clear while one process of the baseline is known, and no timing noise."""

EARLY_SHARE = 0.1
"""A clear gain is confirmed at once if a repetition takes less than this share of the time that is left."""

SHORT_SHARE = 0.1
"""The share of the estimated time that may be missing. Builds are stopped when exactly so much is left, and that takes
some of it."""


@remembered
def by_preference(history: History) -> Sequence[Outcome]:
    """Return the trials that are as good as the baseline and may be cheaper, as they were recorded, then the baseline.

    The cheapest comes first, or of those that noise cannot tell from it the simplest.
    """
    if history.baseline.status != "measured":
        return []
    trials = front.eligible(history.all_settled(), history.space.tolerance)
    cost = front.cost(history.settled(history.baseline))
    baseline = [trial for trial in trials if trial.number == BASELINE]
    gaining = [trial for trial in trials if trial not in baseline and may_gain(history, trial, cost)]
    return [history.outcomes[trial.number] for trial in simplest_first(history, gaining) + baseline]


@dataclass
class OpenPair:
    """A pair of which one was proposed and not both were measured yet, and which trials of it were."""

    pair: Pair
    measured: set[int] = field(default_factory=set)


class PairedRuns:
    """Proposes the repetitions of a candidate's pairs, the baseline of each pair first.

    Where there is room for both, they run at the same time. A pair runs on one device, and is given up with it. As many
    as a gain needs run at the same time on several devices.
    """

    def __init__(self, candidate: int) -> None:
        self.candidate = candidate
        self.failures = Failures()
        self.is_concluded = False
        self.open: dict[Device, OpenPair] = {}

    def propose(self, history: History, device: Device) -> Proposal | None:
        """Return the next repetition, None while both run. A pair that another run left incomplete is left so."""
        self.open = {each: pair for each, pair in self.open.items() if history.can_use(each)}
        if device not in self.open:
            if history.is_repeating(BASELINE, device):
                return None  # by itself: its calls cannot alternate with a candidate's
            tried = len(history.tried_pairs_of(history.outcomes[self.candidate]))
            if self.open and tried + len(self.open) >= MIN_PAIRS:
                return None
            self.open[device] = OpenPair(self.next_pair(history))
        missing = [number for number in (BASELINE, self.candidate) if number not in self.open[device].measured]
        waiting = [number for number in missing if not history.is_repeating(number, device)]
        return repetition(history.outcomes[waiting[0]], self.open[device].pair) if waiting else None

    def next_pair(self, history: History) -> Pair:
        """Return a pair that was never begun."""
        recorded = [run.pair for run in history.repetitions if run.pair and run.pair.candidate == self.candidate]
        begun = [*recorded, *(each.pair for each in self.open.values())]
        return Pair(candidate=self.candidate, index=1 + max((pair.index for pair in begun), default=-1))

    def partner(self, history: History, device: Device) -> Proposal | None:
        """Return the repetition that belongs to one that runs now, or None."""
        return self.propose(history, device) if self.open and not self.failures.are_final else None

    def observe(self, outcome: Outcome) -> None:
        """Take note of what came of a repetition of these pairs: other candidates are built meanwhile."""
        device = next((each for each, pair in self.open.items() if pair.pair == outcome.pair), None)
        if device is None:
            return
        self.failures.observe(outcome)
        if outcome.status == "measured":
            self.open[device].measured.add(outcome.number)
        if self.open[device].measured == {BASELINE, self.candidate}:
            del self.open[device]


@remembered
def best_so_far(history: History) -> Outcome:
    """Return the cheapest trial whose gain is confirmed, the baseline if there is none."""
    return next((outcome for outcome in by_preference(history) if is_confirmed(history, outcome)), history.baseline)


def lacks_pairs(history: History, runs: PairedRuns) -> bool:
    """Return whether a candidate has fewer pairs than its gain needs. One disturbed pair is always repeated."""
    target = history.outcomes[runs.candidate]
    tried, pairs = len(history.tried_pairs_of(target)), len(history.pairs_of(target))
    is_needed = tried < MIN_PAIRS or (pairs < MIN_PAIRS and tried < RESERVED_PAIRS)
    is_needed = is_needed and not is_confirmed(history, target)
    return not runs.failures.are_final and (is_needed or bool(runs.open))


def seems_plain(history: History, candidate: Outcome) -> bool:
    """Return whether one pair will probably show the gain of a candidate; of one that was not found yet it may."""
    return candidate.number == BASELINE or speed_up(history, candidate).low > PLAIN_GAIN


def first_in_doubt(history: History) -> Outcome | None:
    """Return the first trial whose gain pairs left in doubt, if more pairs could settle it."""
    for candidate in by_preference(history):
        if MIN_PAIRS <= len(history.tried_pairs_of(candidate)) < MAX_PAIRS and is_in_doubt(history, candidate):
            return candidate
    return None


class Confirmation(Strategy):
    """Measures the cheapest trial that is as good as the baseline in pairs with it, until its gain is sure.

    The gain is looked at three times at most: after one pair, which must show it plainly, after two, and after the
    largest number of pairs. Each further look would find one by chance more often. A pair of which a process was
    disturbed does not count, and is measured again. The first trial is confirmed whatever the time, but not while
    another is sure.
    """

    def __init__(self, budget: Budget, note: Callable[[str], None], report: Callable[[Outcome], None]) -> None:
        self.budget = budget
        self.note = note
        self.report = report
        self.unconfirmed: set[int] = set()
        """Trials that this run measured in pairs without becoming sure of their gain."""
        self.runs: PairedRuns | None = None
        self.is_out_of_time = False

    def propose(self, history: History, device: Device) -> Proposal | None:
        if history.running:
            return self.runs.partner(history, device) if self.runs else None
        while True:
            if self.runs is None:
                first = self.shortlist(history)[0]
                if is_confirmed(history, first):
                    return None
                if not self.can_start(history, first):
                    if not self.is_out_of_time:
                        self.note("no time is left to confirm a cheaper configuration")
                    self.is_out_of_time = True
                    return None
                self.runs = PairedRuns(first.number)
            if self.wants_another_pair(history, self.runs):
                return self.runs.propose(history, device)
            self.conclude(history, history.outcomes[self.runs.candidate])

    def observe(self, outcome: Outcome) -> None:
        if self.runs is not None:
            self.runs.observe(outcome)

    def shortlist(self, history: History) -> list[Outcome]:
        """Return what may be chosen, the cheapest first: the baseline, and what is sure or was not yet confirmed."""
        candidates = [
            outcome
            for outcome in by_preference(history)
            if outcome.number not in self.unconfirmed or is_confirmed(history, outcome)
        ]
        is_listed = any(outcome.number == history.baseline.number for outcome in candidates)
        return candidates if is_listed else [*candidates, history.baseline]

    def choose(self, history: History) -> Outcome:
        """Return the cheapest trial whose gain is confirmed; the baseline if there is none."""
        return best_so_far(history)

    def can_start(self, history: History, first: Outcome) -> bool:
        """Return whether a trial may be confirmed: always if it is the first, else if there is time."""
        is_other_sure = self.choose(history).number != history.baseline.number
        if not (self.unconfirmed or is_other_sure) or history.tried_pairs_of(first):
            return True
        return self.budget.seconds_left() >= (1 - SHORT_SHARE) * self.missing_pairs_s(history, first)

    def wants_another_pair(self, history: History, runs: PairedRuns) -> bool:
        """Return whether the gain is not decided yet and another pair fits."""
        target = history.outcomes[runs.candidate]
        tried, pairs = len(history.tried_pairs_of(target)), len(history.pairs_of(target))
        if lacks_pairs(history, runs):
            return True
        if runs.failures.are_final or tried >= MAX_PAIRS or (0 < pairs <= MIN_PAIRS and is_confirmed(history, target)):
            return False
        return self.budget.seconds_left() >= pair_s(history, target)

    def conclude(self, history: History, target: Outcome) -> None:
        """Note that a trial stays unconfirmed, if it does, and report what its pairs showed."""
        if not is_confirmed(history, target):
            self.unconfirmed.add(target.number)
        self.runs = None
        self.report(target)

    # ---- the time that the search leaves ----------------------------------------------------------------------------

    def missing_pairs_s(self, history: History, candidate: Outcome, pairs: int = MIN_PAIRS) -> float:
        """Estimate the seconds of the pairs that a candidate does not have yet.

        With long calls that is one pair for a gain that one will show plainly, and the baseline by itself before it.
        """
        if has_long_calls(history) and not history.tried_pairs_of(candidate) and seems_plain(history, candidate):
            alone_s = 0.0 if timing_noise(history) else lone_repetition_s(history)
            return alone_s + pair_s(history, candidate)
        missing = max(0, pairs - len(history.tried_pairs_of(candidate)), MIN_PAIRS - len(history.pairs_of(candidate)))
        rounds = missing - 1 if missing > 1 and len(history.devices) > 1 else missing  # two pairs at the same time
        return rounds * pair_s(history, candidate)

    def search_ends_at(self, history: History, pairs: int = RESERVED_PAIRS) -> float:
        """Return the `time.monotonic()` at which the search must end to leave time for so many pairs.

        No time is left for a trial that was found too late for its pairs, while another is sure. While no trial is
        better than the baseline, no more than a third of the budget is kept, however slow its pairs may be.
        """
        first = self.shortlist(history)[0]
        is_baseline = first.number == history.baseline.number
        is_sure = not is_baseline and is_confirmed(history, first)
        if history.baseline.status != "measured" or is_sure or not self.can_start(history, first):
            return self.budget.ends_at
        reserved_s = self.missing_pairs_s(history, first, pairs)
        if is_baseline:
            reserved_s = min(reserved_s, MAX_RESERVED_SHARE * (self.budget.limits.budget_s or math.inf))
        return self.budget.ends_at - reserved_s

    def is_search_over(self, history: History) -> bool:
        """Return whether a limit is reached, or too little time is left even for a quick build.

        A slow build is stopped when the time for the confirmation comes.
        """
        if not self.budget.trials_left(history):
            return True
        return self.search_ends_at(history) - time.monotonic() < 0.7 * quickest_build_s(history)

    def is_search_ending(self, history: History) -> bool:
        """Return whether the last part of the search has begun, by its time or its trials."""
        limits = self.budget.limits
        left_s = self.search_ends_at(history) - time.monotonic()
        is_late = limits.budget_s is not None and left_s < LAST_SHARE * limits.budget_s
        trials_left = self.budget.trials_left(history)
        return is_late or (limits.max_trials is not None and trials_left < LAST_SHARE * limits.max_trials)


class EarlyConfirmation(Strategy):
    """Confirms the first gain that is clear, once in a study, so that there is a result before the search ends.

    Where there is room, other candidates are built meanwhile. It takes the least number of pairs. A gain that they
    leave in doubt is looked at again at the end.
    """

    def __init__(self, confirmation: Confirmation) -> None:
        self.confirmation = confirmation
        self.runs: PairedRuns | None = None

    def is_due(self, history: History) -> bool:
        """Return whether a gain is clear beyond the noise, and a repetition costs little of the time that is left."""
        confirmation = self.confirmation
        if self.runs is not None or any(run.pair for run in history.repetitions):
            return False
        first = confirmation.shortlist(history)[0]
        if first.number == history.baseline.number or confirmation.is_search_over(history):
            return False
        is_cheap = repetition_s(history, first) <= EARLY_SHARE * confirmation.budget.seconds_left()
        clear = 1.0 if timing_noise(history) else MIN_EARLY_GAIN
        return is_cheap and speed_up(history, first).low > clear

    def propose(self, history: History, device: Device) -> Proposal | None:
        if self.is_due(history):
            self.runs = PairedRuns(self.confirmation.shortlist(history)[0].number)
        if self.runs is None or self.runs.is_concluded:
            return None
        if lacks_pairs(history, self.runs):
            return self.runs.propose(history, device)
        self.runs.is_concluded = True
        if self.runs.failures.are_final:
            self.confirmation.unconfirmed.add(self.runs.candidate)
        self.confirmation.report(history.outcomes[self.runs.candidate])
        return None

    def observe(self, outcome: Outcome) -> None:
        if self.runs is not None:
            self.runs.observe(outcome)


class OpenDoubt(Strategy):
    """Settles a gain that an earlier run left in doubt: time for more pairs does not go into other candidates."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.has_started = False
        self.runs: PairedRuns | None = None

    def propose(self, history: History, device: Device) -> Proposal | None:
        if history.running:
            return self.runs.partner(history, device) if self.runs else None
        if not self.has_started:
            doubtful, self.has_started = first_in_doubt(history), True
            self.runs = PairedRuns(doubtful.number) if doubtful else None
        if self.runs is None or self.runs.failures.are_final:
            return None
        target = history.outcomes[self.runs.candidate]
        if not self.runs.open:
            is_enough = len(history.tried_pairs_of(target)) >= MAX_PAIRS
            if is_enough or self.budget.seconds_left() < pair_s(history, target):
                return None
        return self.runs.propose(history, device)

    def observe(self, outcome: Outcome) -> None:
        if self.runs is not None:
            self.runs.observe(outcome)

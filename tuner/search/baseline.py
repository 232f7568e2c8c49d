"""The strategy that every study starts with: the untouched pipeline, and its timing noise."""

from __future__ import annotations

from collections import defaultdict

from tuner.records.outcome import Device, Outcome
from tuner.search.budget import Budget
from tuner.search.history import BASELINE, History, was_throttled
from tuner.search.strategy import Proposal, Strategy

MAX_BASELINES = 4
"""Fresh processes of the baseline at the start, if they are quick."""

BASELINES_SHARE = 0.05
"""The share of the budget that the baseline's repetitions beyond the first may take, with the first."""


class Baseline(Strategy):
    """Trial 0, the untouched pipeline, and again in fresh processes: their spread is the timing noise (A/A).

    Each device has processes of its own. Those of other devices than the first begin beside trial 0. Slow calls are
    not repeated before the images are there that all candidates wait for, and the candidates that were built meanwhile
    have been judged. If a gain is found among these, the baseline of its first pair is the second process. Otherwise
    the baseline is repeated by itself.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.failures: defaultdict[Device | None, Failures] = defaultdict(Failures)
        self.was_proposed = False
        self.built_ahead: set[int] | None = None
        """The trials that were being built when the worker of trial 0 had ended."""

    def propose(self, history: History, device: Device) -> Proposal | None:
        values = history.space.candidate({})
        may_be_beside = history.awaits_reference and not history.has_slow_calls
        if (device in history.builders(values) and not may_be_beside) or history.is_repeating(BASELINE, device):
            return None
        if not self.was_proposed and BASELINE not in history.outcomes:
            self.was_proposed = True
            return Proposal(values=values, purpose="baseline")
        if BASELINE in history.outcomes and device == history.baseline.device and self.awaits_candidates(history):
            return None
        wants_one = self.wants_another(history, device) if BASELINE in history.outcomes else len(history.devices) > 1
        return Proposal(values=values, purpose="confirm", repeats=BASELINE) if wants_one else None

    def awaits_candidates(self, history: History) -> bool:
        """Return whether candidates that were built ahead of slow calls' repetition have not been judged yet."""
        if not history.has_slow_calls:
            return False
        building = {running.number for running in history.running if running.sweep}
        if self.built_ahead is None:
            self.built_ahead = building
        return not building.isdisjoint(self.built_ahead)

    def is_done(self, history: History) -> bool:
        """Return whether the baseline is recorded, and as many of its repetitions as are wanted."""
        is_recorded = BASELINE in history.outcomes and not history.awaits_reference
        if not is_recorded or history.is_repeating(BASELINE):
            return False
        return not any(self.wants_another(history, device) for device in history.devices)

    def wants_another(self, history: History, device: Device) -> bool:
        """Return whether a repetition on a device is missing, or affordable."""
        if history.baseline.status != "measured" or self.failures[device].are_final:
            return False
        walls_s = [run.wall_s for run in history.repetitions_of(history.baseline) if run.device == device]
        is_slow = history.has_slow_calls  # one repetition is dear enough
        disturbed = history.disturbed_baselines()
        runs = [run for run in [history.baseline, *history.repetitions_of(history.baseline)] if run.device == device]
        counting = [run for run in runs if run not in disturbed]
        is_repeated = any(run.repetition is not None for run in counting)
        has_enough = is_repeated and (is_slow or len(counting) > 1)
        return not has_enough or (not is_slow and self.is_affordable(walls_s))

    def is_affordable(self, walls_s: list[float]) -> bool:
        """Return whether one more repetition would still be a small part of the budget."""
        is_few = 0 < len(walls_s) < MAX_BASELINES - 1
        return is_few and sum(walls_s) + max(walls_s) <= BASELINES_SHARE * self.budget.total_s

    def observe(self, outcome: Outcome) -> None:
        if outcome.repetition is not None and outcome.number == BASELINE:
            self.failures[outcome.device].observe(outcome)


class SearchAhead(Strategy):
    """Proposes what the search would begin with while the untouched pipeline's images are being generated.

    If its calls are slow, also while it is measured again.
    """

    def __init__(self, search: Strategy) -> None:
        self.search = search

    def propose(self, history: History, device: Device) -> Proposal | None:
        has_begun = BASELINE in history.outcomes and history.baseline.status == "measured"
        is_ahead = has_begun and (history.awaits_reference or history.has_slow_calls)
        return self.search.propose(history, device) if is_ahead else None

    def observe(self, outcome: Outcome) -> None:
        self.search.observe(outcome)


class Failures:
    """Whether a repetition that failed deserves another try: one that was throttled does, once."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self.last: Outcome | None = None

    def observe(self, outcome: Outcome) -> None:
        """Take note of what came of a repetition."""
        self.in_a_row = 0 if outcome.status == "measured" else self.in_a_row + 1
        self.last = outcome

    @property
    def are_final(self) -> bool:
        """Whether no other try is worth its time."""
        if self.in_a_row == 0 or self.last is None:
            return False
        return self.in_a_row > 1 or not was_throttled(self.last)

"""The strategy that asks an Optuna sampler for candidates."""

from __future__ import annotations

from tuner.records.codec import Values
from tuner.records.outcome import Device, Outcome
from tuner.search.bounds import refusal_reason
from tuner.search.history import History
from tuner.search.strategy import Proposal, SearchContext, Strategy

MAX_KNOWN_PROPOSALS = 200
"""Known or invalid candidates in a row after which the sampler has nothing new to propose."""


class OptunaSampler(Strategy):
    """Proposes what the sampler of the study's Optuna study suggests, without what is known already."""

    def __init__(self, context: SearchContext) -> None:
        self.context = context
        self.known_in_a_row = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether the sampler proposed nothing new for long."""
        return self.known_in_a_row >= MAX_KNOWN_PROPOSALS

    def propose(self, history: History, device: Device) -> Proposal | None:
        while not self.context.is_over(history) and not self.is_exhausted:
            number, values = self.context.trials.ask()
            known = number_of(history, values)
            refusal = refusal_reason(history, values)
            if refusal is None and known is None:
                self.known_in_a_row = 0
                return Proposal(values=values, purpose="search", number=number)
            self.known_in_a_row += 1
            if self.is_exhausted:
                self.context.note(
                    f"the last {MAX_KNOWN_PROPOSALS} candidates were known or invalid: the search ends early"
                )
            if refusal is not None:
                return Proposal(values=values, purpose="search", number=number, refusal=refusal)
            assert known is not None
            self.context.trials.duplicate(number, known)
        return None

    def observe(self, outcome: Outcome) -> None:
        """Do nothing: the store tells Optuna what came of each trial."""


def number_of(history: History, values: Values) -> int | None:
    """Return the trial that answers for a candidate, or will when it ends; None if the candidate is new."""
    known = history.find(values)
    return known.number if known is not None else history.find_running(values)

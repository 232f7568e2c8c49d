"""The strategy that asks an Optuna sampler for candidates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tuner.records.codec import Values
from tuner.records.outcome import Device, Outcome
from tuner.search.history import History
from tuner.search.strategy import Proposal, Strategy

MAX_KNOWN_PROPOSALS = 200
"""Known or invalid candidates in a row after which the sampler has nothing new to propose."""


class AskTell(Protocol):
    """The part of a study's store that an Optuna sampler works through."""

    def ask(self) -> tuple[int, Values]:
        """Start a trial and return its number and the sampler's candidate."""
        ...

    def duplicate(self, number: int, of: int) -> None:
        """End a trial whose candidate was tried before."""
        ...


class OptunaSampler(Strategy):
    """Proposes what the sampler of the study's Optuna study suggests, without what is known already."""

    def __init__(self, trials: AskTell, is_over: Callable[[History], bool], note: Callable[[str], None]) -> None:
        self.trials = trials
        self.is_over = is_over
        self.note = note
        self.known_in_a_row = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether the sampler proposed nothing new for long."""
        return self.known_in_a_row >= MAX_KNOWN_PROPOSALS

    def propose(self, history: History, device: Device) -> Proposal | None:
        while not self.is_over(history) and not self.is_exhausted:
            number, values = self.trials.ask()
            known, refusal = history.find(values), history.space.conflict_reason(values)
            if refusal is None and known is None:
                self.known_in_a_row = 0
                return Proposal(values=values, purpose="search", number=number)
            self.known_in_a_row += 1
            if self.is_exhausted:
                self.note(f"the last {MAX_KNOWN_PROPOSALS} candidates were known or invalid: the search ends early")
            if refusal is not None:
                return Proposal(values=values, purpose="search", number=number, refusal=refusal)
            assert known is not None
            self.trials.duplicate(number, known.number)
        return None

    def observe(self, outcome: Outcome) -> None:
        """Do nothing: the store tells Optuna what came of each trial."""

"""The strategies that ask one of Optuna's samplers for candidates, each a small class."""

from __future__ import annotations

import random
import warnings
from abc import ABC, abstractmethod
from typing import Any

from tuner.records.codec import Values
from tuner.records.outcome import Device
from tuner.search.bounds import refusal_reason
from tuner.search.history import History
from tuner.search.strategy import Proposal, SearchContext, Strategy, random_state
from tuner.search.unknown import Known, unknown_candidate

MAX_KNOWN_PROPOSALS = 20
"""Known candidates in a row after which one near the sampler's last is taken that is not known."""

MAX_REFUSALS = 200
"""Refused candidates beyond the tried ones after which no more are recorded."""


class OptunaSampler(Strategy, ABC):
    """Proposes what a sampler of Optuna suggests, without what is known already."""

    def __init__(self, context: SearchContext) -> None:
        self.context = context

    @abstractmethod
    def sampler(self, seed: int) -> Any:
        """Return the sampler. It is made anew for each candidate, with a seed that follows from what is known."""

    def propose(self, history: History, device: Device) -> Proposal | None:
        if self.context.is_over(history):
            return None
        known, last = Known(history), history.space.candidate({})
        for ask in range(MAX_KNOWN_PROPOSALS):
            self.context.trials.use(self.sampler(random_state(self.context, history, ask)))
            number, last = self.context.trials.ask()
            refusal = None if last in known else refusal_reason(history, last)
            is_recorded = refusal is not None and len(history.refused) < MAX_REFUSALS + len(history.outcomes)
            if last not in known and (refusal is None or is_recorded):
                return Proposal(values=last, purpose="search", number=number, refusal=refusal)
            self.context.trials.abandon(number)
        return self.near(history, known, last)

    def near(self, history: History, known: Known, last: Values) -> Proposal | None:
        """Propose a candidate that is not known, near one that is; None if all are known."""
        chance = random.Random(random_state(self.context, history, MAX_KNOWN_PROPOSALS))  # noqa: S311
        values = unknown_candidate(history, known, chance, last)
        if values is None and not history.running:
            self.context.note("every candidate of the space is known or invalid: the search ends")
        return None if values is None else Proposal(values=values, purpose="search")


class Tpe(OptunaSampler):
    """Optuna's tree-structured Parzen estimator, over all knobs together."""

    def sampler(self, seed: int) -> Any:
        import optuna

        with warnings.catch_warnings():  # of `group`, in each process once
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(n_startup_trials=12, multivariate=True, group=True, seed=seed)


class Nsga2(OptunaSampler):
    """Optuna's genetic algorithm for several objectives."""

    def sampler(self, seed: int) -> Any:
        import optuna

        return optuna.samplers.NSGAIISampler(seed=seed)


class RandomSearch(OptunaSampler):
    """Candidates at random."""

    def sampler(self, seed: int) -> Any:
        import optuna

        return optuna.samplers.RandomSampler(seed=seed)

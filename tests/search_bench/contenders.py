"""The searches that are replayed, each by its name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna

from search_bench.informed import Informed
from search_bench.replay import Replay
from tuner.records.advice import Advice as RecordedAdvice
from tuner.records.advice import Expectation
from tuner.search.agent.agent import Agent
from tuner.search.optuna_sampler import Nsga2, OptunaSampler, RandomSearch, Tpe
from tuner.search.recipes import Recipes, ThrottledAgain
from tuner.search.strategy import FirstOf, SearchContext, Strategy

warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)

Advice = Sequence[Expectation]


@dataclass(frozen=True)
class Contender:
    make: Callable[[Replay, Advice], Strategy]
    has_sweep: bool = True


def context(replay: Replay) -> SearchContext:
    return SearchContext(
        trials=replay.trials,
        is_over=lambda _: False,
        is_ending=lambda _: False,
        best=lambda history: history.baseline,
        note=lambda _: None,
        seed=replay.seed,
        slots=replay.slots,
    )


def plain(sampler: Callable[[SearchContext], Strategy]) -> Contender:
    """One of Optuna's samplers as it comes: no recipes, and each candidate is a build of its own."""
    return Contender(lambda replay, _: sampler(context(replay)), has_sweep=False)


class GaussianProcess(OptunaSampler):
    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.GPSampler(seed=seed, deterministic_objective=False)


def today(replay: Replay, _: Advice) -> Strategy:
    parts = context(replay)
    return FirstOf([Recipes(parts), ThrottledAgain(parts), Tpe(parts)])


def agent(replay: Replay, advice: Advice) -> Strategy:
    if advice:
        replay.history.advice = RecordedAdvice(seconds_by_part={}, noise=0.004, expectations=tuple(advice))
    return FirstOf([ThrottledAgain(context(replay)), Agent(context(replay))])


CONTENDERS = {
    "today": Contender(today),
    "tpe": plain(Tpe),
    "nsga2": plain(Nsga2),
    "gp": plain(GaussianProcess),
    "random": plain(RandomSearch),
    "agent": Contender(agent),
    "agent without advice": Contender(lambda replay, _: agent(replay, ())),
    "informed": Contender(lambda replay, _: Informed(replay)),
}

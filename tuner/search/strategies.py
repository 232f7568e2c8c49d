"""The table of the strategies that search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from tuner.search.agent.agent import Agent
from tuner.search.optuna_sampler import Nsga2, RandomSearch, Tpe
from tuner.search.recipes import Recipes, StepSweep, ThrottledAgain
from tuner.search.simplicity import Simplify
from tuner.search.strategy import FirstOf, SearchContext, Strategy

Make = Callable[[SearchContext], Strategy]


def simplify_at_last(context: SearchContext) -> Strategy:
    """Return what takes settings out when nothing else is proposed any more, whatever time is left."""
    return Simplify(replace(context, is_ending=lambda _: True))


STRATEGIES: Mapping[str, tuple[Make, ...]] = {
    "agent": (ThrottledAgain, Simplify, Agent, simplify_at_last),
    "tpe": (Recipes, StepSweep, ThrottledAgain, Simplify, Tpe),
    "nsga2": (Recipes, StepSweep, ThrottledAgain, Simplify, Nsga2),
    "random": (Recipes, StepSweep, ThrottledAgain, Simplify, RandomSearch),
}
"""What `--strategy` chooses from: strategies in the order in which they are asked for a proposal."""

DEFAULT = "agent"
"""The strategy of a new study. docs/search.md has what each takes to the same front."""

FIRST = "tpe"
"""The strategy of a study that has none recorded: before there was a choice."""


def search(name: str, context: SearchContext) -> Strategy:
    """Return the strategy of a name."""
    return FirstOf([make(context) for make in STRATEGIES[name]])

"""The table of the strategies that search."""

from __future__ import annotations

from collections.abc import Callable

from tuner.search.optuna_sampler import OptunaSampler
from tuner.search.recipes import Recipes, StepSweep, ThrottledAgain
from tuner.search.simplicity import Simplify
from tuner.search.strategy import SearchContext, Strategy

STRATEGIES: tuple[Callable[[SearchContext], Strategy], ...] = (
    Recipes,
    StepSweep,
    ThrottledAgain,
    Simplify,
    OptunaSampler,
)
"""The strategies that search, in the order in which they are asked for a proposal."""

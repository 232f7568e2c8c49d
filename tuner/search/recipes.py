"""The strategies that need no model: experts' recipes, step counts of the best build, and what was throttled again."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.records.codec import Values
from tuner.records.outcome import Device
from tuner.result import front
from tuner.search.bounds import refusal_reason
from tuner.search.history import History
from tuner.search.strategy import Proposal, SearchContext, Strategy
from tuner.space.candidates import SearchSpace


class Recipes(Strategy):
    """Proposes the configurations that experts would try first, unless they were tried already."""

    def __init__(self, context: SearchContext) -> None:
        self.context = context

    def propose(self, history: History, device: Device) -> Proposal | None:
        for recipe in history.space.recipes:
            values = history.space.candidate(recipe.values)
            if self.context.is_over(history) or values in history.refused or history.was_tried(values):
                continue
            refusal = refusal_reason(history, values)
            return Proposal(values=values, purpose="recipe", recipe=recipe.name, refusal=refusal)
        return None


def recipe_of(space: SearchSpace, values: Values) -> str | None:
    """Return the recipe that a candidate is, if it is one."""
    names = (recipe.name for recipe in space.recipes if space.candidate(recipe.values) == values)
    return next(names, None)


def proposal_of(values: Values, recipe: str | None, steps: tuple[int, ...] | None = None) -> Proposal:
    """Return the proposal to build a candidate again, which may be a recipe."""
    return Proposal(values, "recipe" if recipe else "search", recipe=recipe, steps=steps)


class InterruptedBuilds(Strategy):
    """Proposes what was being built when the last run was killed, so that a resumed study takes the same course."""

    def __init__(self, context: SearchContext, sweeps: Sequence[Sequence[Values]]) -> None:
        self.context = context
        self.sweeps = list(sweeps)

    def propose(self, history: History, device: Device) -> Proposal | None:
        while self.sweeps and not self.context.is_over(history):
            missing = [values for values in self.sweeps.pop(0) if not history.was_tried(values)]
            if missing and refusal_reason(history, missing[0]) is None:
                first, *others = missing
                recipe, steps = recipe_of(history.space, first), tuple(int(other["steps"]) for other in others)
                return proposal_of(first, recipe, steps)
        return None


class StepSweep(Strategy):
    """Proposes the step counts of the cheapest acceptable build that were left out because its calls are slow."""

    def __init__(self, context: SearchContext) -> None:
        self.context = context

    def propose(self, history: History, device: Device) -> Proposal | None:
        acceptable = front.eligible(history.all_settled(), history.space.tolerance)
        if not acceptable or self.context.is_over(history):
            return None
        missing = (values for values in history.space.step_sweep(acceptable[0].values) if not history.was_tried(values))
        values = next((values for values in missing if refusal_reason(history, values) is None), None)
        return None if values is None else Proposal(values=values, purpose="search")


class ThrottledAgain(Strategy):
    """Proposes a candidate again whose calls were all held back by heat or the power supply, once."""

    def __init__(self, context: SearchContext) -> None:
        self.context = context

    def propose(self, history: History, device: Device) -> Proposal | None:
        throttled = None if self.context.is_over(history) else history.throttled_trial()
        if throttled is None:
            return None
        self.context.note(f"trial {throttled.number} was throttled: its configuration is tried again")
        return proposal_of(throttled.values, throttled.recipe)  # also of a step count of the baseline's build

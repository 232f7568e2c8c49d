"""The strategies that need no model: experts' recipes, step counts of the best build, and what was throttled again."""

from __future__ import annotations

from tuner.records.outcome import Device, Outcome
from tuner.result import front
from tuner.search.bounds import refusal_reason
from tuner.search.history import History
from tuner.search.strategy import Proposal, SearchContext, Strategy


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

    def observe(self, outcome: Outcome) -> None:
        """Do nothing: the history says what was tried."""


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

    def observe(self, outcome: Outcome) -> None:
        """Do nothing: the history says what was tried."""


class ThrottledAgain(Strategy):
    """Proposes a candidate again whose calls were all held back by heat or the power supply, once."""

    def __init__(self, context: SearchContext) -> None:
        self.context = context

    def propose(self, history: History, device: Device) -> Proposal | None:
        throttled = None if self.context.is_over(history) else history.throttled_trial()
        if throttled is None:
            return None
        self.context.note(f"trial {throttled.number} was throttled: its configuration is tried again")
        return Proposal(values=throttled.values, purpose=throttled.purpose, recipe=throttled.recipe)

    def observe(self, outcome: Outcome) -> None:
        """Do nothing: the history says what was throttled."""

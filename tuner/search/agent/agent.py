"""The strategy that proposes what gains most hypervolume a second of GPU time, by a model of costs that learns."""

from __future__ import annotations

import random

from tuner.records.codec import Values
from tuner.records.outcome import Device
from tuner.search.agent.choosing import Chooser
from tuner.search.bounds import refusal_reason
from tuner.search.history import History
from tuner.search.recipes import recipe_of
from tuner.search.strategy import Proposal, SearchContext, Strategy, random_state
from tuner.search.unknown import Known, nearest, unknown_candidate

MIN_GAIN = 1e-4
"""The expected gain, as a share of the hypervolume, that a trial must be worth. The noise of a timing moves a front by
more."""


class Agent(Strategy):
    """Proposes what gains most a second, until nothing is worth more than the noise."""

    def __init__(self, context: SearchContext) -> None:
        self.context = context
        self.has_ended = False
        self.chooser: Chooser | None = None

    def propose(self, history: History, device: Device) -> Proposal | None:
        if self.context.is_over(history):
            return None
        self.chooser = self.chooser or Chooser(history, self.context)
        choice = self.chooser.choose(history)
        if not self.context.is_asked and (choice is None or choice.gain < MIN_GAIN):
            self.end(history)
            return None
        return self.anything(history) if choice is None else self.proposal(history, choice.values, choice.steps)

    def end(self, history: History) -> None:
        """Say that the search ends, unless what runs may still change that."""
        if not history.running and not self.has_ended:
            self.has_ended = True
            self.context.note("no candidate is expected to gain more than the noise: the search ends")

    def anything(self, history: History) -> Proposal | None:
        """Propose a candidate that is not known, whatever it gains."""
        chance = random.Random(random_state(self.context, history, 1))  # noqa: S311
        values = unknown_candidate(history, Known(history), chance, history.baseline.values)
        return None if values is None else self.proposal(history, values)

    def proposal(self, history: History, values: Values, steps: tuple[int, ...] | None = None) -> Proposal:
        """Propose a candidate: through Optuna, if it has no value beyond those that are searched."""
        from tuner.search.agent.sampler import AgentSampler

        self.context.trials.use(AgentSampler(values))
        refusal, recipe = refusal_reason(history, values), recipe_of(history.space, values)
        number = self.context.trials.ask()[0] if history.space.sample(nearest(values)) == values else None
        return Proposal(values, "recipe" if recipe else "search", number, recipe, steps, refusal)

"""The strategy interface: what to measure next, decided from what is known."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tuner.records.codec import Values
from tuner.records.outcome import Device, Outcome, Pair, Purpose
from tuner.search.history import History


@dataclass(frozen=True)
class Proposal:
    """A candidate to build and measure, or a trial to measure again in a fresh process.

    `repeats` is the trial to measure again, as a part of `pair` if that is set, and with `prompts` to judge so many of
    its images. Otherwise `values` is a new candidate,
    with the number of its trial if one is reserved. Of its other step counts those in `steps` are measured too, by
    default all. A candidate with a `refusal` is recorded with that reason and costs nothing.
    """

    values: Values
    purpose: Purpose
    number: int | None = None
    recipe: str | None = None
    steps: tuple[int, ...] | None = None
    refusal: str | None = None
    repeats: int | None = None
    pair: Pair | None = None
    prompts: int | None = None


class Strategy(Protocol):
    """Proposes what to measure until it has nothing more to propose."""

    def propose(self, history: History, device: Device) -> Proposal | None:
        """Return what to measure next on a device, or None if this strategy has nothing to propose now."""
        ...

    def observe(self, outcome: Outcome) -> None:
        """Take note of what came of a proposal; of several strategies, each is told of all.

        Most have nothing to do: the history says what was tried.
        """
        return


class TrialSource(Protocol):
    """The part of a study's store that an Optuna sampler works through."""

    def use(self, sampler: Any) -> None:
        """Let an Optuna sampler suggest the candidates from now on."""
        ...

    def ask(self) -> tuple[int, Values]:
        """Start a trial and return its number and the sampler's candidate."""
        ...

    def abandon(self, number: int) -> None:
        """End a trial whose candidate is known: the sampler does not count it a second time."""
        ...


@dataclass(frozen=True)
class SearchContext:
    """What a strategy that searches works with.

    It has Optuna's trials, when the search is over, when its last part begins, what would be chosen, and notes to the
    user. What is random follows from `seed`. `slots` builds run at a time. If a number of trials was asked for, it
    `is_asked` for all of them, whatever they gain.
    """

    trials: TrialSource
    is_over: Callable[[History], bool]
    is_ending: Callable[[History], bool]
    best: Callable[[History], Outcome]
    note: Callable[[str], None]
    seed: int = 0
    slots: int = 1
    is_asked: bool = False


class FirstOf(Strategy):
    """Asks several strategies in order and takes the first proposal."""

    def __init__(self, strategies: Sequence[Strategy]) -> None:
        self.strategies = strategies

    def propose(self, history: History, device: Device) -> Proposal | None:
        for strategy in self.strategies:
            proposal = strategy.propose(history, device)
            if proposal is not None:
                return proposal
        return None

    def observe(self, outcome: Outcome) -> None:
        for strategy in self.strategies:
            strategy.observe(outcome)


def random_state(context: SearchContext, history: History, ask: int = 0) -> int:
    """Return the seed of what is random in a proposal: it follows from the study's seed and from what is known.

    So a study that was killed and resumed goes on as one that was not. `ask` counts what one proposal draws.
    """
    state = f"{context.seed} {len(history.outcomes)} {len(history.running)} {ask}"
    return random.Random(state).getrandbits(32)  # noqa: S311


def repetition(outcome: Outcome, pair: Pair | None = None) -> Proposal:
    """Propose to measure a trial again in a fresh process."""
    return Proposal(values=outcome.values, purpose="confirm", repeats=outcome.number, pair=pair)

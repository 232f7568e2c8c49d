"""The contract that every strategy of the search keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kinds import kind

from tuner.hardware import environment
from tuner.records.codec import Values
from tuner.records.outcome import Device, Outcome
from tuner.result.prices import Price
from tuner.search.history import History
from tuner.search.strategies import STRATEGIES
from tuner.search.strategy import SearchContext, Strategy
from tuner.space import reader
from tuner.space.candidates import build_key, image_key

SPACE = """
pipelines: [FluxPipeline]
workload: {prompts: [a red circle], height: 32, width: 32}
quality: {tolerance: 1.0}
baseline: {steps: 28, batch: 1}
knobs: {steps: [28, 20, 14], attention.backend: [native, _native_math]}
recipes: [{name: math, source: here, values: {attention.backend: _native_math}}]
"""
DEVICE = Device(name="cpu")
MAX_PROPOSALS = 50


class InOrder:
    """Optuna's part: suggests every candidate in turn, for ever."""

    def __init__(self, candidates: list[Values]) -> None:
        self.candidates = candidates
        self.asked = 0

    def ask(self) -> tuple[int, Values]:
        self.asked += 1
        return 100 + self.asked, dict(self.candidates[self.asked % len(self.candidates)])

    def duplicate(self, number: int, of: int) -> None:
        assert number > of


@pytest.fixture
def history(tmp_path: Path) -> History:
    (tmp_path / "space.yaml").write_text(SPACE)
    space = reader.load(tmp_path / "space.yaml", kind(), environment.detect("cpu"))
    known = History(space=space, price=Price(usd_per_hour=1.0, source="here"))
    record(known, space.candidate({}))
    return known


def candidates(known: History) -> list[Values]:
    knobs = known.space.knobs
    return [
        known.space.candidate({"steps": steps, "attention.backend": backend})
        for steps in knobs["steps"]
        for backend in knobs["attention.backend"]
    ]


def record(known: History, values: Values) -> Outcome:
    number = len(known.outcomes)
    known.outcomes[number] = Outcome(
        number=number, purpose="search", values=values, build_key=build_key(values), image_key=image_key(values),
        status="measured",
    )  # fmt: skip
    return known.outcomes[number]


def make(strategy: Callable[[SearchContext], Strategy], known: History, *, is_over: bool = False) -> Strategy:
    return strategy(
        SearchContext(
            trials=InOrder(candidates(known)),
            is_over=lambda _: is_over,
            is_ending=lambda _: True,
            best=lambda history: list(history.outcomes.values())[-1],
            note=lambda _: None,
        )
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_known_is_proposed_and_every_strategy_comes_to_an_end(
    strategy: Callable[[SearchContext], Strategy], history: History
) -> None:
    searching = make(strategy, history)
    for _ in range(MAX_PROPOSALS):
        proposal = searching.propose(history, DEVICE)
        if proposal is None:
            break
        assert proposal.refusal is None
        assert not history.was_tried(proposal.values)
        searching.observe(record(history, proposal.values))
    assert searching.propose(history, DEVICE) is None


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_is_proposed_when_the_search_is_over(
    strategy: Callable[[SearchContext], Strategy], history: History
) -> None:
    assert make(strategy, history, is_over=True).propose(history, DEVICE) is None

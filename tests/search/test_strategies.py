"""The contract that every strategy of the search keeps, replayed against a table of measured effects."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from search_bench.replay import DEVICE
from search_bench.stepping import build_one, replayed, small
from search_bench.table import flux

from tuner.commands import arguments
from tuner.records.outcome import Device
from tuner.search.optuna_sampler import OptunaSampler
from tuner.search.strategies import STRATEGIES, search
from tuner.search.unknown import Known, every, key


@pytest.mark.parametrize("name", STRATEGIES)
def test_everything_is_proposed_once_when_it_is_asked_for(name: str) -> None:
    replay, context = replayed(small(), is_asked=True)
    searching = search(name, context)
    while build_one(replay, searching) is not None:
        pass
    tried = [key(outcome.values) for outcome in replay.history.outcomes.values()]
    assert len(set(tried)) == len(tried)
    assert all(values in Known(replay.history) for values in every(replay.table.space))


def test_calls_of_a_second_on_a_gpu_are_slow_whatever_their_steps() -> None:
    """Those of few steps are timed whole, and those of more are composed."""
    history = replayed(small())[0].history
    baseline = history.baseline
    assert baseline.timing is not None and baseline.timing.latency_s.value > 1.0 and not baseline.timing.predicted_from
    assert history.has_slow_calls
    on_cpu = msgspec.structs.replace(baseline, device=Device(name="cpu"))
    assert not dataclasses.replace(history, outcomes={0: on_cpu}).has_slow_calls


@pytest.mark.parametrize("name", STRATEGIES)
def test_nothing_is_proposed_when_the_search_is_over(name: str) -> None:
    replay, context = replayed(small(), is_over=lambda _: True)
    assert search(name, context).propose(replay.history, DEVICE) is None


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_search_that_was_resumed_proposes_the_same(name: str) -> None:
    _, context = replayed(flux())
    courses = []
    for resumes in (False, True):
        again, _ = replayed(flux())
        own = dataclasses.replace(context, trials=again.trials)
        searching = search(name, own)
        course = []
        for _ in range(5):
            searching = search(name, own) if resumes else searching
            course.append(build_one(again, searching))
        courses.append(course)
    assert courses[0] == courses[1]
    assert None not in courses[0]


def test_the_command_offers_every_strategy() -> None:
    assert set(arguments.STRATEGIES) == set(STRATEGIES)


def test_a_sampler_that_knows_no_other_candidate_does_not_end_the_search() -> None:
    class Stubborn(OptunaSampler):
        def sampler(self, seed: int) -> object:
            from tuner.search.agent.sampler import AgentSampler

            return AgentSampler({})  # always the first value of each knob

    replay, context = replayed(flux())
    searching = Stubborn(context)
    proposed = [build_one(replay, searching) for _ in range(12)]
    assert None not in proposed
    assert len({key(values) for values in proposed if values}) == 12

"""Settings that gain nothing are taken out of the choice."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import msgspec
import pytest
from inline_study import SMALL, Bench, Workers

from tuner.records.advice import Advice, Expectation
from tuner.records.codec import Values
from tuner.records.outcome import Device
from tuner.records.protocol import Job, Point
from tuner.search.history import InFlight
from tuner.search.simplicity import MAX_MARGIN, MIN_MARGIN, Simplify, margin, questionable, simpler, simplest_first
from tuner.search.strategy import SearchContext
from tuner.study.loop import Study

SPACE = f"""{SMALL}
knobs:
  attention.backend: [native, _native_math]
  fuse_qkv: [false, true]
  vae.channels_last: [false, true]
  steps: [28]
recipes:
  - name: all
    source: here
    values: {{attention.backend: _native_math, fuse_qkv: true, vae.channels_last: true}}
"""
IDLE = {"fuse_qkv", "vae.channels_last"}
"""Settings without an effect."""


@pytest.fixture
def bench(bench: Bench) -> Bench:
    (bench.folder / "space.yaml").write_text(SPACE)
    return bench


@pytest.fixture
def began(bench: Bench) -> Iterator[Study]:
    """A study of the baseline and the recipe."""
    bench.work = Workers()
    bench.strategy = "tpe"  # begins with the recipe
    with bench.study(trials=2) as study:
        study.run()
        yield study


@pytest.mark.usefixtures("real_database")
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.exhaustive) for seed in range(2, 20))])
def test_settings_without_an_effect_are_taken_out(bench: Bench, seed: int) -> None:
    workers, noise = Workers(), random.Random(seed)
    honest = workers.seconds

    def noisy(job: Job, point: Point) -> float:
        return honest(job, point) * (1 + noise.gauss(0, 0.001))

    workers.seconds = noisy  # type: ignore[method-assign]
    bench.work = workers
    best = bench.run(trials=7)
    assert best.chosen.changed == {"attention.backend": "_native_math"}
    assert best.speed_up_confirmed


def test_they_stay_where_each_gains_something(bench: Bench) -> None:
    workers = Workers()
    honest = workers.seconds
    workers.seconds = lambda job, point: honest(job, point) * 0.9 ** sum(job.build[name] is True for name in IDLE)  # type: ignore[method-assign]
    bench.work = workers
    assert set(bench.run(trials=8).chosen.changed) >= IDLE


def test_what_the_advisor_is_sure_of_is_not_taken_out_and_the_least_goes_first(began: Study) -> None:
    history = began.history
    best = history.outcomes[1]
    assert list(questionable(history, best)) == ["attention.backend", "fuse_qkv", "vae.channels_last"]
    history.advice = Advice(
        seconds_by_part={}, noise=0.0,
        expectations=(
            expected("attention.backend", "_native_math", 1.2), expected("fuse_qkv", True, 1.01),
            expected("vae.channels_last", True, 0.99),
        ),
    )  # fmt: skip
    assert list(questionable(history, best)) == ["vae.channels_last", "fuse_qkv"]
    beside = msgspec.structs.replace(expected("attention.backend", "_native_math", 1.2), beside={"steps": 14})
    elsewhere = msgspec.structs.replace(history.advice, expectations=(beside,))
    sure, history.advice = history.advice, elsewhere
    assert "attention.backend" in list(questionable(history, best)), "nothing is expected of it with these steps"
    history.advice = sure
    assert settings_of(simpler(history, best)) == [
        {"attention.backend", "fuse_qkv"}, {"attention.backend", "vae.channels_last"},
    ]  # fmt: skip


def test_what_is_expected_to_gain_nothing_is_taken_out_at_once(began: Study) -> None:
    history = began.history
    expectations = tuple(expected(name, True, 0.99) for name in sorted(IDLE))
    history.advice = Advice(seconds_by_part={}, noise=0.0, expectations=expectations)
    first, *others = settings_of(simpler(history, history.outcomes[1]))
    assert first == {"attention.backend"}
    assert all(len(names) == 2 for names in others)


def test_one_simpler_configuration_is_measured_at_a_time(began: Study) -> None:
    history, best = began.history, began.history.outcomes[1]
    context = SearchContext(
        trials=began.store, is_over=lambda _: False, is_ending=lambda _: True, best=lambda _: best, note=print
    )
    strategy = Simplify(context)
    proposal = strategy.propose(history, Device(name="cpu"))
    assert proposal is not None
    history.running.append(InFlight(9, (proposal.values,)))
    assert strategy.propose(history, Device(name="cpu")) is None


def test_of_what_costs_the_same_the_simpler_comes_first_and_then_the_smaller(bench: Bench) -> None:
    bench.work = Workers()
    with bench.study(trials=2) as study:
        study.run()
        history, trial = study.history, study.history.outcomes[1]
        assert margin(history) == MIN_MARGIN
        assert MIN_MARGIN < MAX_MARGIN
        assert trial.memory is not None
        cost = trial.cost_usd_per_1000_images or 1.0
        simple = history.space.candidate({"fuse_qkv": True})
        two = history.space.candidate({"fuse_qkv": True, "vae.channels_last": True})
        cheapest = msgspec.structs.replace(trial, number=5, values=two, cost_usd_per_1000_images=cost)
        smaller = msgspec.structs.replace(
            cheapest, number=6, memory=msgspec.structs.replace(trial.memory, peak_bytes=1)
        )
        simpler = msgspec.structs.replace(cheapest, number=7, values=simple, cost_usd_per_1000_images=cost * 1.004)
        dearer = msgspec.structs.replace(simpler, number=8, cost_usd_per_1000_images=cost * 1.006)
        ordered = simplest_first(history, [dearer, cheapest, smaller, simpler])
        assert [each.number for each in ordered] == [7, 6, 5, 8]


def settings_of(candidates: Iterable[Values]) -> list[set[str]]:
    """The settings of each candidate that are not the baseline's."""
    names = ("attention.backend", "fuse_qkv", "vae.channels_last")
    return [{name for name in names if values[name] not in (False, "native")} for values in candidates]


def expected(knob: str, value: str | bool, ratio: float) -> Expectation:
    return Expectation(knob=knob, value=value, ratio=ratio, low=ratio - 0.015, high=ratio + 0.015, reason="planted")


def test_what_the_user_fixed_is_not_taken_out(bench: Bench) -> None:
    bench.work = Workers()
    with bench.study("fuse_qkv=true", trials=2) as study:
        study.run()
        settings = study.history.space.changed(study.history.outcomes[1].values)
        assert settings["fuse_qkv"] is True
        assert "fuse_qkv" not in set(questionable(study.history, study.history.outcomes[1]))

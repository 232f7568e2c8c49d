"""The loop, with a worker that is made up: the timing noise, and how gains are confirmed, early and at the end."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import msgspec
import pytest
from inline_study import DEVICE, Bench, Workers

from tuner.records.codec import Estimate
from tuner.records.outcome import Device, Failure, Outcome
from tuner.records.protocol import (
    Job,
    Message,
    Point,
    WorkerFailed,
)
from tuner.result.records import BestConfig
from tuner.search import baseline, confirmation, gain
from tuner.search.budget import CACHED_SHARE, MIN_CALLS, pair_s, quickest_build_s, repetition_s
from tuner.search.confirmation import Confirmation, PairedRuns, by_preference
from tuner.search.gain import MIN_PAIRS, is_confirmed, is_in_doubt, speed_up, timing_noise
from tuner.search.history import History
from tuner.search.strategy import Proposal, repetition
from tuner.timing import prediction


class Once:
    """A strategy that proposes one thing."""

    def __init__(self, proposal: Proposal) -> None:
        self.proposals = [proposal]

    def propose(self, history: History, device: Device) -> Proposal | None:
        return self.proposals.pop() if self.proposals else None

    def observe(self, outcome: Outcome) -> None:
        pass


# ---- A/A ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("real_database")
def test_the_spread_of_the_baselines_processes_is_the_noise_of_the_study(bench: Bench, workers: Workers) -> None:
    honest = workers.seconds
    workers.seconds = lambda job, point: honest(job, point) * (1 + 0.01 * (len(workers.jobs) % 2))  # type: ignore[method-assign]
    with bench.study(trials=5) as found:
        found.measure_baseline()
        noise = timing_noise(found.history)
        assert noise is not None
        assert noise.processes == baseline.MAX_BASELINES
        assert noise.coefficient_of_variation == pytest.approx(0.00575, rel=0.05)
        shown = bench.told.notes
        assert any(note.startswith("timing noise: 0.57% between 4 processes") for note in shown)
        other = next(outcome for outcome in found.history.outcomes.values() if outcome.number)
        gain = speed_up(found.history, other)
        assert gain.high / gain.value > 1.96 * 2**0.5 * 0.0057, "wide enough for another process of either"


def test_slow_processes_of_the_baseline_are_few(bench: Bench, workers: Workers) -> None:
    with bench.study(trials=5, budget_s=1e-6) as found:
        found.measure_baseline()
        noise = timing_noise(found.history)
        assert noise is not None
        assert noise.processes == 2


def test_slow_calls_that_are_timed_whole_are_measured_again_once(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "seconds", lambda *_: 1.5)
    bench.devices = (Device(name="cuda"),)
    with bench.study(trials=5) as found:
        found.run()
        timing = found.history.baseline.timing
        assert timing is not None and timing.predicted_from is None and found.history.has_slow_calls
        assert len(found.history.repetitions_of(found.history.baseline)) == 1


def test_what_measuring_again_took_is_what_it_will_take_the_next_time(bench: Bench, workers: Workers) -> None:
    with bench.study(trials=8) as found:
        found.measure_baseline()
        candidate = next(outcome for outcome in found.history.outcomes.values() if outcome.number)
        before_s = repetition_s(found.history, candidate)
        assert before_s > 0.2, "a share of its first call, which takes a second"
        found.exhaust(Once(repetition(candidate)))
        assert repetition_s(found.history, candidate) == found.history.repetitions[-1].wall_s < before_s


def test_the_search_leaves_time_for_a_third_turn_until_a_gain_is_sure(bench: Bench, workers: Workers) -> None:
    with bench.study(trials=5) as found:
        found.measure_baseline()
        (first, *_) = by_preference(found.history)
        kept_s = found.budget.ends_at - found.confirmation.search_ends_at(found.history)
        assert first.number
        assert kept_s == pytest.approx(3 * pair_s(found.history, first))
        found.exhaust(found.confirmation)
        assert is_confirmed(found.history, first)
        assert found.budget.ends_at == found.confirmation.search_ends_at(found.history), (
            "nothing is kept for what is sure"
        )


def test_what_the_confirmation_leaves_of_the_time_is_searched(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first search ends at once, so that time is left for the confirmation; what follows it finds more."""
    search_ends_at = Confirmation.search_ends_at
    confirmed = baseline.MAX_BASELINES - 1 + 2 * MIN_PAIRS

    def late_enough(confirmation: Confirmation, history: History, *pairs: int) -> float:
        is_early = len(history.repetitions) < confirmed
        return search_ends_at(confirmation, history, *pairs) - (1e6 if is_early else 0.0)

    monkeypatch.setattr(Confirmation, "search_ends_at", late_enough)
    monkeypatch.setattr(gain, "QUIET", -1.0)  # one pair is never enough
    best = bench.run(trials=None)
    purposes = [outcome.purpose for outcome in bench.told.outcomes if outcome.purpose != "baseline"]
    assert best.speed_up_confirmed
    assert set(purposes[:confirmed]) == {"confirm"}
    assert "search" in purposes[confirmed:]


# ---- a result before the search ends --------------------------------------------------------------------------------


def purposes(bench: Bench) -> list[str]:
    """What was measured after the baseline and its repetitions, without repeats in a row."""
    known = [outcome.purpose for outcome in bench.told.outcomes]
    rest = known[known.index("confirm") + baseline.MAX_BASELINES - 1 :]
    return [purpose for index, purpose in enumerate(rest) if index == 0 or rest[index - 1] != purpose]


def test_the_first_clear_gain_is_confirmed_at_once(bench: Bench, workers: Workers) -> None:
    files: list[BestConfig] = []
    with bench.study(trials=14) as found:
        export = found.write
        found.write = lambda best: (files.append(best), export(best))[1]  # type: ignore[method-assign]
        found.run()
    assert purposes(bench)[0] == "confirm", "a step count of the baseline's own build was clearly cheaper"
    chosen = [best.chosen.trial for best in files]
    assert chosen[0] == 0, "the baseline, as soon as it is measured"
    first = next(best for best in files if best.chosen.trial)
    assert first.speed_up_confirmed
    assert first.trials.measured < files[-1].trials.measured, "the search went on"
    costs = [best.chosen.cost_usd_per_1000_images for best in files]
    assert costs == sorted(costs, reverse=True), "it only gets better"
    best = [text for index, text in enumerate(bench.told.best) if text not in bench.told.best[:index]]
    assert best[0] == "best so far: the baseline"
    assert best[1].startswith(f"best so far: the baseline; to confirm: trial {first.chosen.trial}, ")
    assert any(re.fullmatch(rf"best so far: trial {first.chosen.trial}, .*, confirmed", text) for text in best[2:])
    (told,) = [note for note in bench.told.notes if f"trial {first.chosen.trial}: a gain is confirmed" in note]
    assert "best_config.json" in told


@pytest.mark.usefixtures("real_database")
def test_a_gain_that_is_not_clear_at_once_waits_for_the_end(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = workers.seconds
    workers.seconds = lambda job, point: honest(job, point) * (1 + 0.5 * (len(workers.jobs) % 2))  # type: ignore[method-assign]
    bench.run("steps=28", trials=4)
    assert purposes(bench)[0] in ("recipe", "search")


@pytest.mark.parametrize(("left_s", "is_due"), [(1000.0, True), (50.0, False)])
def test_a_repetition_that_costs_much_of_the_time_left_waits_for_the_end(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch, left_s: float, is_due: bool
) -> None:
    with bench.study(trials=12) as found:
        found.measure_baseline()
        found.history.repetitions[:] = [msgspec.structs.replace(r, wall_s=10.0) for r in found.history.repetitions]
        monkeypatch.setattr(found.budget, "seconds_left", lambda: left_s)
        assert found.early.is_due(found.history) is is_due


@pytest.mark.usefixtures("real_database")
def test_a_gain_that_two_early_pairs_leave_in_doubt_may_be_looked_at_again_at_the_end(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first candidate's first repetition is slow."""
    honest, slowed = workers.seconds, list[Job]()
    monkeypatch.setattr(baseline, "MAX_BASELINES", 2)

    def uneven(job: Job, point: Point) -> float:
        if not point.score and point.steps != 28 and not slowed:
            slowed.append(job)
        return honest(job, point) * (1.9 if job in slowed else 1.0)

    monkeypatch.setattr(workers, "seconds", uneven)
    with bench.study(trials=6) as found, found.stages.run():
        found.measure_baseline()
        found.exhaust(found.early)
        assert not found.early.is_due(found.history), "once in a study"
        candidate = found.history.outcomes[found.early.runs.candidate] if found.early.runs else None
        assert candidate is not None and is_in_doubt(found.history, candidate)
        assert len(found.history.tried_pairs_of(candidate)) == MIN_PAIRS
        assert candidate.number in [outcome.number for outcome in found.confirmation.shortlist(found.history)]
        later = PairedRuns(candidate.number)
        assert found.confirmation.wants_another_pair(found.history, later)
    with bench.study(trials=6) as again:
        assert not again.early.is_due(again.history)


def test_a_build_that_runs_may_use_the_time_of_a_third_pair(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirmation, "EARLY_SHARE", 0.0)
    with bench.study(trials=12) as found:
        found.measure_baseline()
        (first, *_) = by_preference(found.history)
        assert first.number
        proposal = found.search.propose(found.history, DEVICE)
        assert proposal is not None
        search_ends_at, pair = found.confirmation.search_ends_at(found.history), pair_s(found.history, first)
        bench.executor.deadlines.clear()
        found.exhaust(Once(proposal))
        assert bench.executor.deadlines[0] - search_ends_at == pytest.approx(pair, rel=0.05)


def test_a_trial_that_stays_unconfirmed_is_left_alone_and_leaves_time_for_another(
    bench: Bench, workers: Workers
) -> None:
    """No repetition but the baseline's succeeds."""
    repeated: list[Job] = []

    def failing(job: Job) -> Iterator[Message]:
        untouched = job.build["attention.backend"] == "native" and job.points[0].steps == 28
        if not job.points[0].score and not untouched:
            repeated.append(job)
            yield WorkerFailed(failure=Failure(kind="crash", stage="time", message="SIGSEGV"))
        else:
            yield from workers(job)

    bench.work = failing
    with bench.study(trials=None) as found:
        found.measure_baseline()
        (first, *_) = by_preference(found.history)
        found.choose()
        settling = found.confirmation
        assert first.number in settling.unconfirmed
        of_first = [r for r in found.history.repetitions if r.number == first.number]
        assert len(of_first) == 1, "a repetition that crashed is not tried again"
        assert len(repeated) == len(settling.unconfirmed)
        assert settling.shortlist(found.history)[0].number not in settling.unconfirmed
        kept_s = found.budget.ends_at - settling.search_ends_at(found.history)
        expected_s = 3 * pair_s(found.history, found.history.baseline)
        assert kept_s == pytest.approx(expected_s), "for what may still be found"
    notes = [note for note in bench.told.notes if note.startswith(f"trial {first.number}:")]
    assert len(notes) == len(set(notes))


def test_no_time_is_spent_on_confirming_another_than_what_is_sure(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench.study(trials=8) as found:
        found.measure_baseline()
        found.choose()
        sure = next(outcome for outcome in by_preference(found.history) if is_confirmed(found.history, outcome))
        assert sure.number
        cheaper = msgspec.structs.replace(
            sure, number=99, cost_usd_per_1000_images=sure.cost_usd_per_1000_images / 2, build_key="another"
        )
        found.history.outcomes[99] = cheaper
        monkeypatch.setattr(found.budget, "seconds_left", lambda: 0.0)
        found.exhaust(found.confirmation)
        assert found.confirmation.choose(found.history).number == sure.number
    assert "no time is left to confirm a cheaper configuration" in bench.told.notes


def test_what_is_slower_than_the_baseline_takes_longer_to_measure_again(bench: Bench, workers: Workers) -> None:
    with bench.study(trials=8) as found:
        found.measure_baseline()
        baseline = found.history.baseline
        assert baseline.timing is not None
        seconds = baseline.timing.latency_s.value + 1.0
        slower = msgspec.structs.replace(baseline.timing, latency_s=Estimate(value=seconds, low=seconds, high=seconds))
        other = msgspec.structs.replace(baseline, number=99, timing=slower)
        expected = repetition_s(found.history, baseline) + CACHED_SHARE * 1.0 + MIN_CALLS * 1.0
        assert repetition_s(found.history, other) == pytest.approx(expected)


@pytest.mark.parametrize(("left_s", "is_over"), [(8.0, False), (6.0, True)])
def test_the_search_goes_on_while_the_quickest_build_would_nearly_fit(
    bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch, left_s: float, is_over: bool
) -> None:
    bench.run("cache.kind=none", trials=8)
    with bench.study("cache.kind=none", trials=60) as found:
        builds = list(dict.fromkeys(outcome.build_key for outcome in found.history.outcomes.values()))
        assert len(builds) > 1
        walls = dict.fromkeys(builds, 50.0) | {builds[-1]: 10.0}
        for number, outcome in found.history.outcomes.items():
            found.history.outcomes[number] = msgspec.structs.replace(outcome, wall_s=walls[outcome.build_key])
        repeats = [msgspec.structs.replace(repeat, wall_s=20.0) for repeat in found.history.repetitions]
        found.history.repetitions[:] = repeats
        assert quickest_build_s(found.history) == 10.0
        monkeypatch.setattr(found.confirmation, "search_ends_at", lambda _: time.monotonic() + left_s)
        assert found.confirmation.is_search_over(found.history) is is_over


def test_the_baseline_is_as_quick_as_it_was_when_nothing_was_drawn_beside_it(bench: Bench, workers: Workers) -> None:
    with bench.study(trials=5) as found:
        found.measure_baseline()
        baseline = found.history.baseline
        found.history.outcomes[0] = msgspec.structs.replace(baseline, wall_s=40.0)
        found.history.repetitions[0] = msgspec.structs.replace(found.history.repetitions[0], wall_s=15.0)
        assert quickest_build_s(found.history) == 15.0


def test_only_the_baseline_is_asked_what_bounds_a_step(bench: Bench, workers: Workers) -> None:
    bench.run(trials=10)
    assert [job.probe for job in workers.jobs].count(True) == 1
    assert workers.jobs[0].probe


def test_steps_that_span_a_row() -> None:
    assert prediction.step_counts_to_measure([14, 28, 20, 6]) == {14, 28, 6}
    assert prediction.step_counts_to_measure([28]) == {28}

"""Pairs of baseline and candidate, in whatever order their repetitions end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import msgspec
import pytest

from tuner.records.codec import Estimate
from tuner.records.outcome import Build, Components, Device, Failure, Limits, Outcome, Pair, Status, Timing
from tuner.result.prices import Price
from tuner.search.baseline import Baseline, Failures
from tuner.search.budget import CACHED_SHARE, Budget, has_long_calls, pair_s, quickest_build_s, repetition_s
from tuner.search.confirmation import Confirmation, OpenPair, PairedRuns
from tuner.search.gain import MIN_PAIRS, RESERVED_PAIRS, is_confirmed, speed_up
from tuner.search.history import History, InFlight, was_built
from tuner.search.unknown import Known
from tuner.space.candidates import build_key

BASELINE, CANDIDATE, DEVICE = 0, 7, Device(name="cpu")


def outcome(
    number: int, seconds: float, pair: Pair | None = None, repetition: int | None = None, status: Status = "measured"
) -> Outcome:
    timing = Timing(
        latency_s=Estimate(value=seconds, low=seconds, high=seconds), samples=6, images_per_s=1 / seconds,
        stopped="interval within target",
    )  # fmt: skip
    failure = Failure(kind="throttled", stage="time", message="held back") if status == "failed" else None
    return Outcome(
        number=number, purpose="confirm", values={"steps": 28, "batch": 1}, build_key=str(number), image_key="",
        status=status, pair=pair, repetition=repetition, timing=timing if status == "measured" else None,
        failure=failure,
    )  # fmt: skip


def history(*repetitions: Outcome) -> History:
    outcomes = {number: outcome(number, 2.0 if number == BASELINE else 1.0) for number in (BASELINE, CANDIDATE)}
    price = Price(usd_per_hour=1.0, source="here")
    return History(space=cast(Any, None), price=price, outcomes=outcomes, repetitions=list(repetitions))


def pair(index: int) -> Pair:
    return Pair(candidate=CANDIDATE, index=index)


def runs(*order: tuple[int, int]) -> list[Outcome]:
    """Repetitions of (trial, index of its pair), in this order."""
    return [
        outcome(number, 2.0 if number == BASELINE else 1.0, pair(index), repetition)
        for repetition, (number, index) in enumerate(order)
    ]


@pytest.mark.parametrize(("stopping_s", "fits"), [(0.0, True), (2.0, True), (20.0, False)])
def test_the_time_that_builds_were_stopped_for_is_used(
    stopping_s: float, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another gain is confirmed, so that this one is only while its pairs fit."""
    known, budget = history(), Budget(Limits(budget_s=600.0, max_trials=None))
    confirmation = Confirmation(budget, lambda _: None, lambda _: None)
    candidate = known.outcomes[CANDIDATE]
    monkeypatch.setattr(confirmation, "choose", lambda _: outcome(3, 1.5))
    monkeypatch.setattr(confirmation, "shortlist", lambda _: [candidate])
    monkeypatch.setattr("tuner.search.confirmation.pair_s", lambda *_: 30.0)
    builds_end_at = confirmation.search_ends_at(known, MIN_PAIRS)
    assert budget.ends_at - builds_end_at == pytest.approx(60.0)
    monkeypatch.setattr("tuner.search.budget.time.monotonic", lambda: builds_end_at + stopping_s)
    assert confirmation.can_start(known, candidate) is fits
    kept_s = 60.0 if fits else 0.0  # what was found too late stops no builds
    assert budget.ends_at - confirmation.search_ends_at(known, MIN_PAIRS) == pytest.approx(kept_s)


@pytest.mark.parametrize(("pair", "kept_share"), [(10.0, 0.05), (500.0, 1 / 3)])
def test_a_third_of_the_budget_is_kept_at_most_while_there_is_nothing_to_confirm(
    pair: float, kept_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, budget = history(), Budget(Limits(budget_s=600.0, max_trials=None))
    confirmation = Confirmation(budget, lambda _: None, lambda _: None)
    monkeypatch.setattr(confirmation, "choose", lambda _: known.baseline)
    monkeypatch.setattr(confirmation, "shortlist", lambda _: [known.baseline])
    monkeypatch.setattr("tuner.search.confirmation.pair_s", lambda *_: pair)
    kept_s = budget.ends_at - confirmation.search_ends_at(known)
    assert kept_s == pytest.approx(kept_share * 600.0, rel=0.01)


def long_calls(candidate_s: float = 38.5, repetitions: Sequence[Outcome] = ()) -> History:
    """A history whose latencies were composed from short calls: 64 s a call of the baseline."""
    built = Build(changes={}, load_s=0.5, apply_s=0.5, first_call_s=10.0, trace=None, verdict=None)
    known = history(*repetitions)
    for number, seconds in ((BASELINE, 64.0), (CANDIDATE, candidate_s)):
        timed = outcome(number, seconds)
        assert timed.timing is not None
        timing = msgspec.structs.replace(timed.timing, predicted_from=(4,), samples=0, stopped="predicted")
        build = built if number == BASELINE else msgspec.structs.replace(built, first_call_s=40.0, compile_s=35.0)
        known.outcomes[number] = msgspec.structs.replace(timed, timing=timing, build=build)
    return known


def test_one_pair_of_long_calls_is_kept_for_a_gain_that_it_will_show() -> None:
    known, budget = long_calls(), Budget(Limits(budget_s=1800.0, max_trials=None))
    confirmation = Confirmation(budget, lambda _: None, lambda _: None)
    baseline, candidate = known.outcomes[BASELINE], known.outcomes[CANDIDATE]
    assert has_long_calls(known) and not has_long_calls(history())
    assert repetition_s(known, baseline) == pytest.approx(1.0 + 2 * 10 + 2 * 64)
    assert repetition_s(known, candidate) == pytest.approx(1.0 + 2 * CACHED_SHARE * 40 + 2 * 38.5)
    alone_s = 1.0 + 2 * 10 + 4 * 10
    one_s = pair_s(known, candidate)
    assert confirmation.missing_pairs_s(known, candidate, RESERVED_PAIRS) == pytest.approx(alone_s + one_s)
    again = outcome(BASELINE, 64.1, None, 0)
    known.repetitions.append(again)
    assert confirmation.missing_pairs_s(known, candidate, RESERVED_PAIRS) == pytest.approx(one_s)
    small = long_calls(candidate_s=60.0)
    assert confirmation.missing_pairs_s(small, small.outcomes[CANDIDATE]) == pytest.approx(
        MIN_PAIRS * pair_s(small, small.outcomes[CANDIDATE])
    )


def test_one_pair_of_long_calls_confirms_a_plain_gain_beside_a_repetition_of_short_ones() -> None:
    alone = outcome(BASELINE, 64.2, None, 0)
    known = long_calls(repetitions=[alone, outcome(BASELINE, 64.4, pair(0), 1), outcome(CANDIDATE, 38.7, pair(0), 2)])
    assert is_confirmed(known, known.outcomes[CANDIDATE])
    found = speed_up(known, known.outcomes[CANDIDATE])
    assert found.value == pytest.approx(64.4 / 38.7)
    assert found.low > 1.6


def test_a_build_with_long_calls_takes_a_first_look_at_its_images() -> None:
    known = long_calls()
    assert quickest_build_s(known) == pytest.approx(61.0 + 4 * 38.5)


@pytest.mark.parametrize(
    "order",
    [
        [(BASELINE, 0), (CANDIDATE, 0), (BASELINE, 1), (CANDIDATE, 1)],
        [(BASELINE, 0), (BASELINE, 1), (CANDIDATE, 0), (CANDIDATE, 1)],
        [(CANDIDATE, 1), (BASELINE, 0), (CANDIDATE, 0), (BASELINE, 1)],
    ],
    ids=["in turn", "two in flight", "mixed"],
)
def test_pairs_are_known_by_their_index_not_by_their_order(order: list[tuple[int, int]]) -> None:
    known = history(*runs(*order))
    pairs = known.pairs_of(known.outcomes[CANDIDATE])
    expected = [(BASELINE, CANDIDATE, pair(index)) for index in (0, 1)]
    assert [(a.number, b.number, a.pair) for a, b in pairs] == expected
    assert len(pairs) == MIN_PAIRS
    assert speed_up(known, known.outcomes[CANDIDATE]).value == pytest.approx(2.0)
    assert is_confirmed(known, known.outcomes[CANDIDATE])


def test_half_a_pair_does_not_count() -> None:
    known = history(*runs((BASELINE, 0), (CANDIDATE, 0), (BASELINE, 1)))
    assert len(known.pairs_of(known.outcomes[CANDIDATE])) == 1


def test_a_pair_is_measured_baseline_first() -> None:
    known, paired = history(), PairedRuns(CANDIDATE)
    measured = []
    for repetition in range(4):
        proposal = paired.propose(known, DEVICE)
        assert proposal is not None and proposal.repeats is not None
        done = outcome(proposal.repeats, 1.0, proposal.pair, repetition)
        measured.append((proposal.repeats, proposal.pair.index if proposal.pair else None))
        known.repetitions.append(done)
        paired.observe(done)
    assert measured == [(BASELINE, 0), (CANDIDATE, 0), (BASELINE, 1), (CANDIDATE, 1)]


def test_a_pair_that_a_killed_run_left_incomplete_is_not_completed_later() -> None:
    known = history(*runs((BASELINE, 0)))
    proposal = PairedRuns(CANDIDATE).propose(known, DEVICE)
    assert proposal is not None
    assert (proposal.repeats, proposal.pair) == (BASELINE, pair(1))


def test_as_many_pairs_as_a_gain_needs_run_at_the_same_time_each_on_its_device() -> None:
    known, paired = history(), PairedRuns(CANDIDATE)
    first, second, third = (Device(name="cpu", index=index) for index in range(3))
    known.devices = [first, second, third]
    proposed = {device: paired.propose(known, device) for device in known.devices}
    assert [each and each.pair for each in proposed.values()] == [pair(0), pair(1), None]
    known.devices = [second, third]
    again = paired.propose(known, third)
    assert again is not None and again.pair == pair(2), "the pair of a device that was taken out is given up"
    for device, index in ((second, 1), (third, 2)):
        for number in (BASELINE, CANDIDATE):
            done = outcome(number, 1.0, pair(index), len(known.repetitions))
            known.repetitions.append(done)
            paired.observe(done)
        assert device not in paired.open
    assert len(known.tried_pairs_of(known.outcomes[CANDIDATE])) == MIN_PAIRS


def test_a_throttled_repetition_is_tried_once_more() -> None:
    failures = Failures()
    throttled = outcome(CANDIDATE, 1.0, status="failed")
    failures.observe(throttled)
    assert not failures.are_final
    failures.observe(throttled)
    assert failures.are_final
    failures.observe(outcome(CANDIDATE, 1.0))
    assert not failures.are_final


def test_a_build_beside_a_pair_is_not_counted_in_it() -> None:
    runs = PairedRuns(3)
    pair = Pair(candidate=3, index=0)
    runs.open[DEVICE] = OpenPair(pair)
    build = Outcome(number=7, purpose="search", values={}, build_key="", image_key="", status="measured")
    runs.observe(build)
    runs.observe(msgspec.structs.replace(build, number=8, status="rejected"))
    assert (runs.open[DEVICE].measured, runs.failures.are_final) == (set(), False)
    for number in (0, 3):
        runs.observe(msgspec.structs.replace(build, number=number, pair=pair, repetition=number))
    assert not runs.open, "both of it were measured"


def test_the_parts_of_a_call_are_those_of_the_trial_where_its_pairs_have_none() -> None:
    known = history(*runs((BASELINE, 0), (CANDIDATE, 0), (BASELINE, 1), (CANDIDATE, 1)))
    parts = Components(total_s=1.0, text_encoders_s=None, denoiser_s=0.9, vae_s=0.1, rest_s=0.0)
    trial = known.outcomes[CANDIDATE]
    assert trial.timing is not None
    timing = msgspec.structs.replace(trial.timing, components=parts)
    known.outcomes[CANDIDATE] = msgspec.structs.replace(trial, timing=timing)
    settled = known.settled(known.outcomes[CANDIDATE]).timing
    assert settled is not None and settled.components == parts


def test_a_candidates_failure_is_none_of_the_baseline() -> None:
    baseline = Baseline(cast(Any, None))
    for number in (CANDIDATE, CANDIDATE):
        baseline.observe(outcome(number, 1.0, pair(0), 0, status="failed"))
    assert not baseline.failures[None].are_final
    for _ in range(2):
        baseline.observe(outcome(BASELINE, 1.0, pair(0), 0, status="failed"))
    assert baseline.failures[None].are_final


def test_no_pair_begins_beside_a_process_of_the_baseline_by_itself() -> None:
    known = history()
    known.running.append(InFlight(BASELINE, (), DEVICE))
    pairs = PairedRuns(CANDIDATE)
    assert pairs.propose(known, DEVICE) is None
    known.running.clear()
    proposal = pairs.propose(known, DEVICE)
    assert proposal is not None and proposal.repeats == BASELINE


@pytest.mark.parametrize(("stage", "built"), [("time", True), ("score", True), ("apply", False)])
def test_a_cache_that_skips_nothing_leaves_other_step_counts_of_its_build(stage: str, built: bool) -> None:
    failure = Failure(
        kind="no effect", stage=stage, message="cache.kind=mag: it skipped nothing in 28 steps, as if it were not set"
    )
    assert was_built(msgspec.structs.replace(outcome(1, 1.0, status="failed"), failure=failure)) is built


OUT_OF_MEMORY = Failure(kind="out of memory", stage="time", message="CUDA out of memory")


def of_steps(number: int, steps: int, failure: Failure | None = None) -> Outcome:
    """A trial of one build, with a step count."""
    status: Status = "failed" if failure else "measured"
    values = {**outcome(number, 1.0).values, "precision.dtype": "bfloat16", "steps": steps}
    return msgspec.structs.replace(
        outcome(number, 1.0, status=status), values=values, build_key=build_key(values), failure=failure
    )


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_one_step_count_that_fails_says_nothing_of_the_others_of_a_build_that_works(order: tuple[int, ...]) -> None:
    good, bad, wanted = of_steps(1, 28), of_steps(2, 20, OUT_OF_MEMORY), of_steps(3, 14).values
    trials = {number: {1: good, 2: bad}[number] for number in order}
    known = replace(history(), outcomes=trials)
    assert (known.find(good.values), known.find(bad.values), known.find(wanted)) == (good, bad, None)
    assert good.values in Known(known) and bad.values in Known(known) and wanted not in Known(known)


@pytest.mark.parametrize("stage", ["compile", "time"])
def test_what_fails_at_the_step_count_that_it_was_built_for_fails_at_all(stage: str) -> None:
    """A worker reports no other step count then."""
    bad, wanted = of_steps(2, 28, msgspec.structs.replace(OUT_OF_MEMORY, stage=stage)), of_steps(3, 14).values
    known = replace(history(), outcomes={2: bad})
    assert known.find(wanted) == bad and wanted in Known(known)


def test_a_candidates_own_outcome_answers_for_it_before_a_later_failure_of_its_build() -> None:
    good = of_steps(1, 28)
    late = of_steps(2, 20, msgspec.structs.replace(OUT_OF_MEMORY, stage="compile"))
    known = replace(history(), outcomes={1: good, 2: late})
    assert known.find(good.values) == good and known.find(of_steps(3, 14).values) == late

"""The agent: what its model learns, what it expects of a trial, when it stops."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from kinds import kind
from search_bench.contenders import CONTENDERS
from search_bench.replay import DEVICE, Front, Replay, exhaustive_area
from search_bench.stepping import build_one, replayed, small
from search_bench.table import H200, SPACES, flux

from tuner.advisor.skipping import BY_THRESHOLD, fewer_steps
from tuner.records.advice import Advice, Expectation
from tuner.records.codec import Value, Values
from tuner.records.outcome import Device, Failure
from tuner.search.agent import beliefs
from tuner.search.agent.agent import Agent
from tuner.search.agent.chances import Chances
from tuner.search.agent.choosing import Chooser, Comparison
from tuner.search.agent.costs import better
from tuner.search.agent.features import Columns, Setting, alike
from tuner.search.agent.observed import Observed, Observer, Seconds
from tuner.search.agent.pool import Pool
from tuner.search.agent.regression import ALIKE, Prior, fit
from tuner.search.agent.worth import LEVELS, MIN_TIMING_S, TIMING_CALLS, Bill, gains, level_of, lowered
from tuner.search.history import InFlight
from tuner.search.strategy import Proposal
from tuner.search.unknown import Known, every
from tuner.space import reader


def prior(columns: int) -> Prior:
    return Prior(np.zeros(columns), np.full(columns, 0.3), 0.1, 0.01)


def test_a_sum_of_effects_is_found_with_the_pair_that_the_data_ask_for() -> None:
    rows = (np.random.default_rng(0).random((60, 6)) < 0.5).astype(float)
    y = rows @ [0.3, -0.2, 0.0, 0.1, 0.0, 0.0] - 0.25 * rows[:, 1] * rows[:, 3]
    found = fit(rows, y, prior(6), [])
    assert found.pairs == ((1, 3),)
    assert np.abs(found.expected(rows) - y).max() < 0.01


def test_no_pair_is_found_where_there_is_none() -> None:
    chance = np.random.default_rng(1)
    rows = (chance.random((60, 8)) < 0.5).astype(float)
    assert fit(rows, rows @ chance.normal(size=8) * 0.2 + chance.normal(size=60) * 0.01, prior(8), []).pairs == ()


def test_what_was_never_seen_stays_uncertain() -> None:
    rows = np.array([[1.0, 0.0]] * 8)
    found = fit(rows, np.full(8, -0.3), prior(2), [])
    spread = found.draws(np.eye(2), np.random.default_rng(2).standard_normal((400, 8))).std(axis=1)
    assert spread[0] < 0.02 < 0.2 < spread[1]


def test_the_gain_is_what_the_front_gains() -> None:
    limit, front = 2.0, np.full((1, LEVELS), 5.0)
    exact, points = Front(5.0), [(0.5, 3.0), (0.25, 4.0), (1.0, 2.0), (1.5, 4.5)]
    for loss, latency_s in points:
        before = exact.area
        exact.add(loss, latency_s)
        gain = gains(front, limit, np.array([[latency_s]]), np.array([[loss]]))
        assert gain[0, 0] == pytest.approx(exact.area - before, abs=0.02)
        front = lowered(front, limit, np.array([latency_s]), np.array([loss]))


def test_a_loss_lies_on_the_level_that_is_not_below_it() -> None:
    levels = level_of(np.array([-1.0, 0.0, 2.0 / LEVELS, 2.0, 2.1]), 2.0)
    assert levels.tolist() == [0, 0, 0, LEVELS - 1, LEVELS]


def test_settings_that_fail_together_are_avoided_but_not_each_alone() -> None:
    replay, _ = replayed(small())
    space = small().space
    for changed in ({"compile.scope": "full"}, {"cache.kind": "first-block"}):
        build(replay, space.candidate(changed))
    both = space.candidate({"compile.scope": "full", "cache.kind": "first-block"})
    build(replay, both)
    columns = Columns(space)
    trials = Observer(columns).trials(replay.history)
    chances = Chances(trials, replay.history.refused, columns).of(
        columns.rows([both, space.candidate({"compile.scope": "full"})])
    )
    assert chances[0] < 0.3 < 0.7 < chances[1]


def test_a_build_of_which_a_later_step_count_fails_is_good() -> None:
    replay, _ = replayed(small())
    space = small().space
    build(replay, values := space.candidate({"cache.kind": "first-block"}))
    (good,) = [outcome for outcome in replay.history.outcomes.values() if outcome.values == values]
    columns, observer = Columns(space), Observer(Columns(space))
    rows = columns.rows([values])
    before = Chances(observer.trials(replay.history), [], columns).of(rows)
    replay.history.outcomes[99] = msgspec.structs.replace(
        good, number=99, status="failed", values={**values, "steps": 6}, timing=None, quality=None,
        failure=Failure(kind="out of memory", stage="time", message="CUDA out of memory"),
    )  # fmt: skip
    assert Chances(observer.trials(replay.history), [], columns).of(rows) == before


def build(replay: Replay, values: dict[str, object]) -> None:
    """Build one candidate."""

    class Once(Agent):
        def propose(self, history, device):
            return None if replay.flying else Proposal(values=values, purpose="search", steps=())

    build_one(replay, Once(replayed(small())[1]))


def test_the_agent_stops_when_nothing_is_worth_more_than_the_noise_and_says_so() -> None:
    notes: list[str] = []
    replay, context = replayed(small(), note=notes.append)
    agent = Agent(context)
    while build_one(replay, agent) is not None:
        pass
    assert notes == ["no candidate is expected to gain more than the noise: the search ends"]
    found, best = Front(replay.front.limit), Front(replay.front.limit)
    for values in every(replay.table.space):
        point = replay.table.point(values)
        if point.status == "measured":
            best.add(point.penalty, point.latency_s)
            if values in Known(replay.history):
                found.add(point.penalty, point.latency_s)
    assert found.area > 0.98 * best.area


def test_who_knows_the_table_needs_fewest_seconds() -> None:
    courses = {}
    for name in ("informed", "agent", "random"):
        table = small()
        replay = Replay(table, seed=1, area=exhaustive_area(table), has_sweep=CONTENDERS[name].has_sweep)
        courses[name] = replay.run(CONTENDERS[name].make(replay, table.expectations(0.25, 1)), 3600.0)
    seconds = {name: course.reached_s[0.99] for name, course in courses.items()}
    assert seconds["informed"] < seconds["agent"] < seconds["random"]


def test_timing_a_build_costs_whole_calls_of_its_batch() -> None:
    replay, context = replayed(flux())
    comparison = Comparison(Chooser(replay.history, context), replay.history)
    comparison.draw(0.0)
    space, pool = replay.table.space, Pool(replay.table.space, comparison.columns, 0)
    one, four = (pool.of([space.candidate({"batch": batch})]) for batch in (1, 4))
    alone, together = comparison.points(one), comparison.points(four)
    seconds = [points.timing_s for points in (alone, together)]
    call_s = [np.median(points.latency_s, axis=1) for points in (alone, together)]
    assert seconds[0] == pytest.approx(np.maximum(TIMING_CALLS * call_s[0], MIN_TIMING_S))
    assert seconds[1] == pytest.approx(TIMING_CALLS * 4 * call_s[1])


def bill(slots: int, *, trials: Sequence[Observed] = (), prompts: int = 64, is_on_cpu: bool = False) -> Bill:
    return Bill(trials, [], slots, prompts, is_on_cpu=is_on_cpu)


def test_compiling_is_free_while_the_images_of_others_are_generated() -> None:
    """While one is timed all stand still, and on a CPU also while one's images are generated."""
    begin_s, timing_s, image_s = np.array([0.0, 60.0, 600.0]), np.full(3, 10.0), np.full(3, 20.0)
    assert bill(4).seconds(begin_s, timing_s, image_s).tolist() == [30.0, 30.0, 165.0]
    assert bill(1).seconds(begin_s, timing_s, image_s).tolist() == [30.0, 90.0, 630.0]
    assert bill(2, is_on_cpu=True).seconds(begin_s, timing_s, image_s).tolist() == [30.0, 60.0, 330.0]


def test_new_images_are_as_many_as_were_judged_so_far() -> None:
    replay, _ = replayed(small())
    space = small().space
    baseline, *_ = Observer(Columns(space)).trials(replay.history)
    assert bill(4, trials=[baseline]).new_images == 8.0, "the baseline's own images do not count"
    assert bill(4, trials=[baseline], prompts=4).new_images == 4.0
    build(replay, space.candidate({"cache.kind": "first-block"}))
    trials = Observer(Columns(space)).trials(replay.history)
    judged = msgspec.structs.replace(trials[-1].outcome.quality, scores=(30.0,) * 16)
    own = Observed(msgspec.structs.replace(trials[-1].outcome, quality=judged), trials[-1].row)
    assert bill(4, trials=[baseline, own]).new_images == 12.0


def test_what_would_compile_for_longer_than_it_may_is_not_begun() -> None:
    replay, context = replayed(flux())
    replay.history.compile_limit_s = 200.0
    comparison = Comparison(Chooser(replay.history, context), replay.history)
    comparison.draw(0.0)
    space, pool = replay.table.space, Pool(replay.table.space, comparison.columns, 0)
    whole = {"compile.scope": "full"}
    autotuned = {**whole, "compile.mode": "max-autotune-no-cudagraphs"}
    builds = pool.of([space.candidate(whole), space.candidate(autotuned)])
    compared = {choice.values["compile.mode"] for choice in comparison.compared(builds)}
    assert compared == {"default"}
    on_cpu = msgspec.structs.replace(replay.history.baseline, device=Device(name="cpu"))
    replay.history.outcomes[0] = on_cpu
    shared = Comparison(Chooser(replay.history, replace(context, slots=2)), replay.history)
    assert shared.longest_compile_s == comparison.longest_compile_s, "the limit is that of builds that share the cores"
    replay.history.compile_limit_s = 900.0
    later = Comparison(Chooser(replay.history, context), replay.history)
    later.draw(0.0)
    assert len({choice.values["compile.mode"] for choice in later.compared(builds)}) == 2


def test_one_build_at_a_time_may_be_expected_to_compile_for_too_long() -> None:
    """Until something was compiled nobody knows: a build that gambles runs, and no other one of that kind begins."""
    replay, context = replayed(flux())
    space = replay.table.space
    whole, regional = (space.candidate({"compile.scope": scope}) for scope in ("full", "regional"))

    def compared(running: Sequence[Values]) -> set[object]:
        replay.history.running = [InFlight(7, (values,), DEVICE) for values in running]
        comparison = Comparison(Chooser(replay.history, context), replay.history)
        comparison.draw(0.0)
        fused = [space.candidate({"compile.scope": scope, "fuse_qkv": True}) for scope in ("full", "regional")]
        builds = Pool(space, comparison.columns, 0).of(fused)
        return {choice.values["compile.scope"] for choice in comparison.compared(builds)}

    comparison = Comparison(Chooser(replay.history, context), replay.history)
    expected_s = float(comparison.costs.first_call_s(comparison.columns.rows([whole]))[0])
    replay.history.compile_limit_s = 0.8 * expected_s
    assert compared([]) == compared([regional]) == {"full", "regional"}
    assert compared([whole]) == {"regional"}
    replay.history.compile_limit_s = 1.3 * expected_s
    assert compared([whole]) == {"full", "regional"}, "that is no gamble"


@pytest.mark.parametrize(
    ("seen", "is_tried"), [([], False), ([24.5, 27.6, 16.3, 38.5], False), ([2.0, 3.0, 2.5, 5.0], True)]
)
def test_autotuning_is_expected_to_take_as_many_times_as_long_as_what_was_compiled(
    seen: list[float], is_tried: bool
) -> None:
    """The first are FLUX.1-dev's blocks on an H200, the last with its VAE: autotuning them took over 330 s."""
    settings = [
        ("compile.scope", "regional"), ("compile.vae", True), ("compile.mode", "max-autotune-no-cudagraphs"),
    ]  # fmt: skip
    rows = np.array([[1.0, 0.0, 0.0]] * 3 + [[1.0, 1.0, 0.0]])[: len(seen)].reshape(-1, 3)
    found = beliefs.of_first_call(settings, rows, np.array(seen))
    tuned = float(fit(rows, np.array(seen), found, []).expected(np.array([[1.0, 0.0, 1.0]]))[0])
    assert (tuned <= 1.2 * 200) is is_tried
    assert is_tried or tuned > 300


def test_more_step_counts_of_a_build_cost_what_they_add() -> None:
    """Where compiling takes longest their images are generated meanwhile."""
    replay, context = replayed(flux(), slots=4)
    comparison = Comparison(Chooser(replay.history, context), replay.history)
    comparison.draw(0.0)
    space, pool = replay.table.space, Pool(replay.table.space, comparison.columns, 0)
    (points,) = [comparison.points(pool.of([space.candidate({"compile.scope": "regional"})]))]
    first, *_ = places = np.argsort(points.latency_s.mean(axis=1)).tolist()
    slow = dataclasses.replace(points, begin_s=np.full_like(points.begin_s, 4000.0))
    quick = dataclasses.replace(points, begin_s=np.zeros_like(points.begin_s))
    assert len(comparison.with_steps(slow, places).steps) > len(comparison.with_steps(quick, places).steps)
    assert comparison.with_steps(slow, places).values == points.values[first]


CALL = Seconds(step=0.17, fixed=0.24)


def assumed_of_a_step(*told: Expectation) -> tuple[Columns, Prior]:
    """Return what is assumed of a step of FLUX.1-dev where an advisor says so much."""
    columns = Columns(flux().space)
    weak = beliefs.weak(columns.settings, [])
    return columns, beliefs.advised(weak, columns.settings, told, CALL, {"steps": 28})[0]


def expect_of(knob: str, value: Value, beside: Values) -> Expectation:
    return Expectation(knob=knob, value=value, ratio=1.25, low=1.1, high=1.3, reason="", beside=beside)


def test_fewer_steps_are_no_shorter_ones() -> None:
    told = Expectation(knob="steps", value=14, ratio=1.94, low=1.9, high=1.98, reason="half of the steps")
    columns, step = assumed_of_a_step(told)
    assert step.mean[columns.index["steps", 14]] == 0.0


def test_what_is_expected_of_a_threshold_is_that_of_its_cache() -> None:
    beside = {"cache.kind": "first-block"}
    told = Expectation(knob="cache.threshold", value=0.4, ratio=2.6, low=1.5, high=6.0, reason="", beside=beside)
    columns, step = assumed_of_a_step(told)
    threshold, cache = (columns.index[item] for item in (("cache.threshold", 0.4), ("cache.kind", "first-block")))
    assert step.mean[threshold] == 0.0
    pair = min(threshold, cache), max(threshold, cache)
    assert step.pairs == {pair: pytest.approx(np.log(1 / 2.6), rel=0.1)}
    assert step.pair_deviations[pair] > 0.3, "the advisor is as unsure of it"


def test_what_is_expected_beside_a_cuda_graph_is_that_of_the_pair() -> None:
    """Without the graph an SDXL on slow cores gets slower by static fp8."""
    space = reader.load(SPACES / "flux.yaml", kind(), H200)
    columns, scheme, graph = Columns(space), ("quantization.scheme", "fp8-static-tensor"), ("graphs.denoiser", True)
    told = expect_of(*scheme, {"compile.scope": "regional", "graphs.denoiser": True})
    weak = beliefs.weak(columns.settings, [])
    step, _ = beliefs.advised(weak, columns.settings, [told], CALL, {"steps": 28})
    both = sorted(columns.index[item] for item in (scheme, graph))
    assert step.mean[columns.index[scheme]] == 0.0
    assert step.pairs == {(both[0], both[1]): pytest.approx(np.log(1 / 1.25), rel=0.1)}


def test_with_fewer_steps_a_cache_is_expected_to_skip_less() -> None:
    """First-block of 14 instead of 28 steps, by the advisor's curve: the kind at its own threshold, and at 0.25."""
    columns = Columns(flux().space)
    untouched = {"steps": 28, "cache.threshold": 0.08}
    step, _ = beliefs.advised(beliefs.weak(columns.settings, []), columns.settings, [], CALL, untouched)
    cache, threshold, steps = (
        columns.index[item] for item in (("cache.kind", "first-block"), ("cache.threshold", 0.25), ("steps", 14))
    )
    of_cache, of_threshold = (step.pairs[min(other, steps), max(other, steps)] for other in (cache, threshold))
    assert of_cache == pytest.approx(np.log(fewer_steps("first-block", 0.08, 14, 28)))
    kinds = [str(value) for name, value in columns.settings if name == "cache.kind" and value in BY_THRESHOLD]
    more = [np.log(fewer_steps(kind, 0.25, 14, 28) / fewer_steps(kind, 0.08, 14, 28)) for kind in kinds]
    assert of_threshold == pytest.approx(np.mean(more))
    assert 0.2 < of_cache < 0.5
    magnitudes = columns.index["cache.kind", "mag"]
    assert (min(magnitudes, steps), max(magnitudes, steps)) not in step.pairs, "it has no threshold of that kind"


def test_what_is_expected_beside_a_setting_that_is_not_searched_is_expected_everywhere() -> None:
    space = reader.load(SPACES / "flux.yaml", kind(), H200, ["compile.scope=none"])
    told = expect_of("compile.mode", "max-autotune-no-cudagraphs", {"compile.scope": "regional"})
    settings = [*Columns(space).settings, ("compile.mode", "max-autotune-no-cudagraphs")]
    step, _ = beliefs.advised(beliefs.weak(settings, []), settings, [told], CALL, {"steps": 28})
    assert step.pairs == {} and step.mean[-1] < 0


def test_a_scheme_that_needs_compiled_blocks_is_expected_to_gain_in_all_of_them() -> None:
    beside = {"compile.scope": "regional"}
    scheme = ("quantization.scheme", "fp8-dynamic-row")
    columns, step = assumed_of_a_step(expect_of(*scheme, beside))
    assert step.pairs == {} and step.mean[columns.index[scheme]] < -0.2


def test_fewer_steps_and_higher_thresholds_are_assumed_to_lose_more() -> None:
    space = flux().space
    columns = Columns(space)
    mean = beliefs.of_loss(columns.settings, 1.0, space.baseline).mean
    lower = beliefs.of_loss([("cache.threshold", 0.02), ("steps", 56)], 1.0, space.baseline).mean
    assert lower[0] < mean[columns.index["cache.threshold", 0.12]] and lower[1] < mean[columns.index["steps", 20]]
    losses = [mean[columns.index["steps", steps]] for steps in (20, 14)]
    losses += [mean[columns.index["cache.threshold", threshold]] for threshold in (0.12, 0.25, 0.4)]
    assert losses[0] < losses[1] and losses[2] < losses[3] < losses[4]
    assert mean[columns.index["compile.scope", "regional"]] == 0.0


def test_each_setting_that_never_worked_makes_a_result_less_likely() -> None:
    space = small().space
    columns = Columns(space)
    one = space.candidate({"compile.scope": "full"})
    two = space.candidate({"cache.kind": "first-block", "attention.backend": "_native_flash"})
    of_one, of_two = Chances([], [], columns).of(columns.rows([one, two]))
    assert 0.9 < of_two < of_one < 1.0
    columns = Columns(flux().space)
    assert Chances([], [], columns).of(columns.rows([flux().space.candidate({"steps": 14})])) == [1.0]


def long_study(monkeypatch: pytest.MonkeyPatch) -> Replay:
    """Record 2,000 trials of a large space with advice, of which Optuna is not told."""
    replay, _ = replayed(flux())
    told = flux().expectations(0.25, 0)
    replay.history.advice = Advice(seconds_by_part={}, noise=0.004, expectations=told)
    monkeypatch.setattr(replay.trials, "tell", lambda *_: None)
    chance = random.Random(0)
    while len(replay.history.outcomes) < 2000:
        values = replay.table.space.sample(lambda _, choices: chance.choice(choices))
        point = replay.table.point(values)
        if replay.table.space.conflict_reason(values) is None and point.status == "measured":
            number = 1 + len(replay.history.outcomes)
            replay.record(number, values, Proposal(values=values, purpose="search"), point, point.build_s)
    return replay


def test_a_proposal_after_2000_trials_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    replay, (_, context) = long_study(monkeypatch), replayed(flux())
    agent, taken_s = Agent(context), []
    for _ in range(4):
        started = time.process_time()
        proposal = agent.propose(replay.history, DEVICE)
        taken_s.append(time.process_time() - started)
    assert min(taken_s) < 0.5  # seconds of CPU: 0.08 to 0.2 by the machine; the first proposal makes the pool
    assert proposal is None or proposal.values not in Known(replay.history)


def test_advice_that_the_data_contradict_is_given_up() -> None:
    rows = (np.random.default_rng(3).random((20, 4)) < 0.5).astype(float)
    weak, y = prior(4), rows @ [0.3, -0.2, 0.1, 0.0]
    right, bad = (replace(weak, mean=np.array(mean), deviation=np.full(4, 0.05)) for mean in (RIGHT, -RIGHT))
    assert better(rows, y, [right, weak], []).evidence > fit(rows, y, weak, []).evidence
    assert better(rows, y, [bad, weak], []).evidence == fit(rows, y, weak, []).evidence


RIGHT = np.array([0.28, -0.22, 0.1, 0.0])


def test_what_compiled_blocks_taught_of_a_setting_is_expected_of_the_whole() -> None:
    settings: list[Setting] = [("compile.scope", "regional"), ("compile.scope", "full"), ("fuse_qkv", True)]
    assert alike(settings) == [[(0, 2), (1, 2)]]
    rows = np.array([[1.0, 0, 0], [0, 0, 1], [1, 0, 1]])
    seconds = np.array([-0.2, 0.05, -0.25])  # fused projections gain only what is compiled
    start = beliefs.weak(settings, [])[0]
    found = fit(rows, seconds, start, [(0, 2), (1, 2)])
    of_blocks, of_all = found.mean[3:]
    assert of_blocks < -0.05
    assert of_all == pytest.approx(ALIKE * of_blocks)
    apart = fit(rows, seconds, replace(start, alike=()), [(0, 2), (1, 2)])
    assert apart.mean[4] == 0.0
    assert found.evidence == pytest.approx(apart.evidence, abs=1e-9), "nothing was seen that tells the two apart"

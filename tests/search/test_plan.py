"""What a study will take, told from one call: simulated figures, and the words that come of them."""

from __future__ import annotations

import msgspec
import pytest

from tuner.quality.race import MIN_PROMPTS_WITHIN
from tuner.search.plan import GOOD_BUILDS, MINUTES, Observed, Plan, Work, enough_s, judged_prompts, make_plan
from tuner.study.narration import format_budget, plan_texts

SWEEP = [28, 20, 14]


def call(call_s: float) -> Observed:
    """A first call of 4 steps, where 28 are asked for."""
    return Observed(start_s=5.0, call_steps=4, call_s=call_s)


def work(prompts: int = 64) -> Work:
    return Work(steps=SWEEP, prompts=prompts, batch=1, device="cuda")


def plan_of(call_s: float, budget_s: float = 36_000.0, prompts: int = 64) -> Plan:
    return make_plan(call(call_s), work(prompts), budget_s)


def test_with_much_time_the_images_of_every_step_count_make_up_most_of_a_slow_build() -> None:
    images_s = 2.0 / 4 * sum(SWEEP) * MIN_PROMPTS_WITHIN
    assert images_s < plan_of(2.0).build_s < 1.5 * images_s


@pytest.mark.parametrize(("budget_s", "prompts"), [(60.0, 4), (1200.0, 16), (36_000.0, 64)])
def test_a_short_budget_is_judged_by_few_prompts(budget_s: float, prompts: int) -> None:
    """A call of 28 steps takes 7 s."""
    assert judged_prompts(call(1.0), work(), budget_s) == prompts


def test_a_slow_call_is_not_timed_at_every_step_count() -> None:
    """A call of 28 steps takes 0.98 s, or 1.05 s and is put together from shorter ones."""
    assert plan_of(0.15, prompts=1).build_s < plan_of(0.14, prompts=1).build_s


@pytest.mark.parametrize("name", ["baseline_s", "trial_s", "build_s", "repetition_s"])
def test_everything_takes_longer_where_a_call_does(name: str) -> None:
    assert getattr(plan_of(0.4), name) > getattr(plan_of(0.2), name)


@pytest.mark.parametrize("budget_s", [1.0, 60.0, 600.0, 36_000.0])
def test_the_baseline_is_measured_whatever_it_takes_and_its_sweep_while_there_is_time(budget_s: float) -> None:
    plan = plan_of(0.3, budget_s)
    assert plan.least_s <= plan.baseline_s <= max(plan.least_s, budget_s)
    assert plan.trial_s < plan.baseline_s


@pytest.mark.parametrize("call_s", [0.001, 0.05, 0.3, 3.0, 30.0])
def test_the_budget_that_is_called_enough_has_room_for_a_good_search(call_s: float) -> None:
    budget_s = enough_s(call(call_s), work())
    assert plan_of(call_s, budget_s).builds >= GOOD_BUILDS
    smaller_s = max((60.0 * minutes for minutes in MINUTES if 60.0 * minutes < budget_s), default=0.0)
    assert plan_of(call_s, smaller_s).builds < GOOD_BUILDS


def test_a_budget_that_is_too_small_is_told_with_one_that_is_enough() -> None:
    (text,) = plan_texts(plan_of(0.5, budget_s=120.0), None, 1800.0)
    assert "the budget of 2:00 has room for none; give --budget 30m, or fewer prompts" in text


def test_a_budget_that_is_enough_needs_no_advice() -> None:
    (text,) = plan_texts(plan_of(0.01, 3600.0, prompts=2), None, 120.0)
    assert "has room for about" in text
    assert "--budget" not in text


def test_it_is_told_again_only_if_the_warm_calls_are_much_quicker() -> None:
    first = plan_of(1.0, 7200.0)
    assert not plan_texts(plan_of(0.95, 7200.0), first, 60.0)
    assert plan_texts(plan_of(0.1, 7200.0), first, 60.0)


@pytest.mark.parametrize(("seconds", "text"), [(60, "1m"), (61, "2m"), (3600, "1h"), (5400, "1h30m"), (90000, "25h")])
def test_a_budget_is_written_as_the_option_takes_it(seconds: float, text: str) -> None:
    assert format_budget(seconds) == text


def test_a_plan_is_plain_data() -> None:
    assert msgspec.json.decode(msgspec.json.encode(plan_of(0.2)), type=Plan) == plan_of(0.2)

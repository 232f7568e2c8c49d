"""What a study will take, told from one call: simulated figures, and the words that come of them."""

from __future__ import annotations

import msgspec
import pytest

from tuner.search.plan import GOOD_BUILDS, Observed, Plan, Work, make_plan
from tuner.study.narration import format_budget, plan_texts

SWEEP = [28, 20, 14]


def plan_of(call_s: float, prompts: int = 72, start_s: float = 5.0, device: str = "cuda") -> Plan:
    """The plan after a first call of 4 steps, where 28 are asked for."""
    observed = Observed(start_s=start_s, call_steps=4, call_s=call_s)
    return make_plan(observed, Work(steps=SWEEP, prompts=prompts, batch=1, device=device))


def test_the_images_of_every_step_count_make_up_most_of_a_slow_build() -> None:
    images_s = 2.0 / 4 * sum(SWEEP) * 72
    assert images_s < plan_of(2.0).build_s < 1.1 * images_s


def test_a_slow_call_is_not_timed_at_every_step_count() -> None:
    """A call of 28 steps takes 0.98 s, or 1.05 s and is put together from shorter ones."""
    assert plan_of(0.15, prompts=1).build_s < plan_of(0.14, prompts=1).build_s


@pytest.mark.parametrize("name", ["baseline_s", "trial_s", "build_s", "confirmation_s"])
def test_everything_takes_longer_where_a_call_does(name: str) -> None:
    assert getattr(plan_of(0.4), name) > getattr(plan_of(0.2), name)


def test_the_baseline_takes_longer_than_a_build_and_contains_a_repetition() -> None:
    plan = plan_of(0.2)
    assert plan.build_s < plan.trial_s < plan.baseline_s


@pytest.mark.parametrize("call_s", [0.001, 0.05, 0.3, 3.0])
def test_the_budget_that_is_called_enough_has_room_for_a_good_search(call_s: float) -> None:
    plan = plan_of(call_s)
    assert plan.builds(plan.enough_s) >= GOOD_BUILDS
    assert plan.enough_s <= 1.5 * (plan.baseline_s + plan.confirmation_s + GOOD_BUILDS * plan.build_s) + 60
    assert plan.builds(plan.baseline_s) == 0


def test_a_budget_that_is_too_small_is_told_with_one_that_is_enough() -> None:
    (text,) = plan_texts(plan_of(0.13), None, left_s=110.0, budget_s=120.0)
    assert "the budget of 2:00 has room for none" in text
    assert "give --budget " in text


def test_a_budget_that_is_enough_needs_no_advice() -> None:
    (text,) = plan_texts(plan_of(0.01, prompts=2), None, left_s=3600.0, budget_s=3600.0)
    assert "has room for about" in text
    assert "--budget" not in text


def test_it_is_told_again_only_if_the_warm_calls_are_much_quicker() -> None:
    first = plan_of(1.0)
    assert not plan_texts(plan_of(0.95), first, 7200.0, 7200.0)
    assert plan_texts(plan_of(0.2), first, 7200.0, 7200.0)


@pytest.mark.parametrize(("seconds", "text"), [(60, "1m"), (61, "2m"), (3600, "1h"), (5400, "1h30m"), (90000, "25h")])
def test_a_budget_is_written_as_the_option_takes_it(seconds: float, text: str) -> None:
    assert format_budget(seconds) == text


def test_a_plan_is_plain_data() -> None:
    assert msgspec.json.decode(msgspec.json.encode(plan_of(0.2)), type=Plan) == plan_of(0.2)

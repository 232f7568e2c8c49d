"""What a study will take, told from one call: recorded and simulated figures, and the words that come of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tuner.errors import StudyFailed
from tuner.numbers import format_budget
from tuner.records.outcome import Limits
from tuner.records.protocol import ImageSize
from tuner.search.budget import QUICK_BUDGET_S, Budget
from tuner.search.plan import BUDGETS_S, GOOD_BUILDS, Plan, TimedCall, Work, enough_s, judged_prompts, make_plan
from tuner.study.events import BudgetChosen, CallObserved, EndExpected, Note
from tuner.study.narration import call_text, plan_text
from tuner.study.planner import LONGEST_S, Planner

SWEEP = [28, 20, 14]
REFERENCE_S = 144.0
FLUX = TimedCall(once_s=31.0, start_s=5.5, call_steps=4, call_s=0.105 + 4 * 0.1777, fixed_s=0.105)
SDXL = TimedCall(once_s=20.0, start_s=3.5, call_steps=4, call_s=0.069 + 4 * 0.0675, fixed_s=0.069)
WAN = TimedCall(once_s=20.0, start_s=6.5, call_steps=4, call_s=1.89 + 4 * 1.272, fixed_s=1.89)
SMALLER_FLUX = TimedCall(once_s=22.0, start_s=2.0, call_steps=4, call_s=0.1 + 4 * 0.0523, fixed_s=0.1)


def call(call_s: float) -> TimedCall:
    """A call of 4 steps, where 28 are asked for."""
    return TimedCall(once_s=0.0, start_s=5.0, call_steps=4, call_s=call_s)


def work(prompts: int = 64, steps: list[int] = SWEEP, device: str = "cuda") -> Work:
    return Work(steps=steps, prompts=prompts, batch=1, device=device, reference_s=REFERENCE_S, slots=3)


def plan_of(call_s: float, budget_s: float = 36_000.0, prompts: int = 64) -> Plan:
    return make_plan(call(call_s), work(prompts), budget_s)


# ---- against what was measured on an H200 (docs/benchmarks.md) ------------------------------------------------------


def test_flux_takes_what_it_took() -> None:
    plan = make_plan(FLUX, work(), 1200.0)
    assert plan.call_s == pytest.approx(5.08, abs=0.01)
    assert plan.least_s - plan.repetition_s == pytest.approx(143, rel=0.1)
    assert plan.sweep_s == 0.0, "other step counts are left for the best build"
    smaller = make_plan(SMALLER_FLUX, work(), 1200.0)
    assert smaller.repetition_s == pytest.approx(10.0, rel=0.1), "18 of the 57 blocks"


@pytest.mark.parametrize(
    ("observed", "steps", "minutes", "builds"),
    [(FLUX, SWEEP, 20, 14), (SDXL, [50, 30, 25, 20, 15], 15, 16), (WAN, [50, 40, 30, 20], 60, 10)],
    ids=["FLUX", "SDXL", "Wan"],
)
def test_the_budget_that_suits_a_model(observed: TimedCall, steps: list[int], minutes: int, builds: int) -> None:
    budget_s = enough_s(observed, work(steps=steps))
    assert (budget_s / 60, make_plan(observed, work(steps=steps), budget_s).builds) == (minutes, builds)


def test_quick_calls_keep_the_budget_of_the_demo() -> None:
    demo = TimedCall(once_s=9.0, start_s=3.0, call_steps=4, call_s=0.04, fixed_s=0.01)
    assert enough_s(demo, work(steps=[28, 20, 14, 10, 8, 6], device="cpu")) == QUICK_BUDGET_S


# ---- its parts ------------------------------------------------------------------------------------------------------


def test_what_does_not_depend_on_the_steps_is_not_multiplied() -> None:
    assert WAN.calls_s(50) == pytest.approx(65.5, abs=0.1)
    assert WAN.calls_s(50, 2) == 2 * WAN.calls_s(50)


def test_what_later_workers_find_loaded_is_paid_once() -> None:
    shared, alone = (
        make_plan(TimedCall(once_s, start_s, 4, 0.8, 0.1), work(), 1200.0) for once_s, start_s in ((31, 1), (0, 32))
    )
    assert alone.build_s - shared.build_s == pytest.approx(31)
    assert alone.repetition_s - shared.repetition_s == pytest.approx(31)
    assert alone.builds < shared.builds


@pytest.mark.parametrize(("reference_s", "prompts"), [(7.0, 4), (144.0, 16), (4320.0, 64)])
def test_images_take_the_share_that_they_were_given(reference_s: float, prompts: int) -> None:
    """A call of 28 steps takes 7 s."""
    given = Work(steps=SWEEP, prompts=64, batch=1, device="cuda", reference_s=reference_s)
    assert judged_prompts(call(1.0), given) == prompts


@pytest.mark.parametrize(("call_s", "budget_s", "prompts"), [(0.5, 330.0, 72), (5.0, 1200.0, 16)])
def test_the_default_prompts_are_judged_as_docs_quality_says(call_s: float, budget_s: float, prompts: int) -> None:
    budget = Budget(Limits(budget_s=budget_s, max_trials=None))
    given = Work(steps=SWEEP, prompts=72, batch=1, device="cuda", reference_s=budget.reference_s)
    assert judged_prompts(call(call_s / 7), given) == prompts


def test_a_slow_call_is_timed_by_fewer_calls_on_a_gpu_only() -> None:
    """A call of 28 steps takes 0.98 s, or 1.05 s and is put together from shorter ones."""
    assert plan_of(0.15, prompts=1).build_s < plan_of(0.14, prompts=1).build_s
    slower, slow = (make_plan(call(seconds), work(1, device="cpu"), 600.0).build_s for seconds in (0.15, 0.14))
    assert slower > slow


@pytest.mark.parametrize("name", ["baseline_s", "trial_s", "build_s", "repetition_s", "confirm_s"])
def test_everything_takes_longer_where_a_call_does(name: str) -> None:
    assert getattr(plan_of(0.9), name) > getattr(plan_of(0.4), name)


@pytest.mark.parametrize("budget_s", [1.0, 60.0, 600.0, 36_000.0])
def test_the_baseline_is_measured_whatever_it_takes_and_its_sweep_while_there_is_time(budget_s: float) -> None:
    plan = plan_of(0.3, budget_s)
    assert plan.least_s <= plan.baseline_s <= max(plan.least_s, budget_s)
    assert plan.trial_s < plan.baseline_s


@pytest.mark.parametrize("call_s", [0.001, 0.05, 0.3, 3.0, 30.0])
def test_the_budget_that_is_called_enough_has_room_for_a_good_search(call_s: float) -> None:
    budget_s = enough_s(call(call_s), work())
    assert plan_of(call_s, budget_s).builds >= GOOD_BUILDS
    assert all(plan_of(call_s, less_s).builds < GOOD_BUILDS for less_s in BUDGETS_S if less_s < budget_s)


# ---- what is told ---------------------------------------------------------------------------------------------------


class Published:
    """A publisher that only remembers."""

    def __init__(self, budget_s: float | None = None) -> None:
        self.events: list[Any] = []
        self.budget = Budget(Limits(budget_s=budget_s, max_trials=None))
        self.size = ImageSize(width=1024, height=768)
        self.planner = Planner(self.budget, self)  # type: ignore[arg-type]

    def publish(self, event: Any) -> None:
        self.events.append(event)
        if isinstance(event, BudgetChosen):
            self.budget.limits = Limits(budget_s=event.budget_s, max_trials=None)

    def told(self, observed: TimedCall) -> list[str]:
        before = len(self.events)
        self.planner.observe(CallObserved(observed, work(), observed.start_s + observed.call_s, self.size))
        return [event.text for event in self.events[before:] if isinstance(event, Note)]


def test_without_a_budget_the_study_takes_the_one_that_suits_the_size() -> None:
    published = Published()
    assert published.budget.ends_at == float("inf"), "until the first call is timed the study has no end"
    (text,) = published.told(FLUX)
    takes, budget = text.split(": ")
    assert takes == "a call (1024x768, 28 steps) takes 5.08 s"
    assert budget == "a budget of 20 min, enough for about 14 builds; --budget sets another"
    assert published.budget.total_s == 1200.0
    assert published.planner.repetition_s > 0


def test_a_given_budget_stays() -> None:
    published = Published(7200.0)
    (text,) = published.told(FLUX)
    assert text.startswith("a call (1024x768, 28 steps) takes 5.08 s, the baseline about ")
    assert text.endswith("the budget of 2:00:00 has room for about 115 builds")
    assert published.budget.total_s == 7200.0


def test_it_is_told_again_only_if_later_calls_take_much_less_or_more() -> None:
    published = Published()
    assert published.told(call(1.0))
    first_s = published.budget.total_s
    assert not published.told(call(0.95))
    assert published.budget.total_s == first_s
    assert published.told(call(0.05))
    assert published.budget.total_s < first_s
    assert not published.told(call(0.055))
    assert published.told(call(1.0))
    assert published.budget.total_s == first_s
    assert sum(isinstance(event, EndExpected) for event in published.events) == 5


def test_no_study_takes_days_by_itself() -> None:
    published = Published()
    (text,) = published.told(call(500.0))
    assert published.budget.total_s == LONGEST_S
    assert "a call (1024x768, 28 steps) takes 3,500 s: a budget of 8 h, enough for no build; give --budget " in text


@pytest.mark.parametrize(("budget_s", "call_s"), [(150.0, 20.0), (None, 1500.0)], ids=["given", "chosen"])
def test_a_baseline_that_takes_much_longer_than_the_budget_ends_the_study(
    budget_s: float | None, call_s: float
) -> None:
    """Once a second call agrees: the first one may wait for the disk."""
    published = Published(budget_s)
    assert published.told(call(3 * call_s))
    with pytest.raises(StudyFailed, match=r"no build; give --budget \d+h.* makes calls shorter"):
        published.told(call(call_s))


def test_a_baseline_may_exceed_the_budget_by_minutes() -> None:
    published = Published(30.0)
    assert published.told(FLUX)
    assert not published.told(FLUX)


def test_a_study_whose_baseline_is_known_needs_no_call() -> None:
    published = Published()
    published.planner.require_budget()
    published.planner.require_budget()
    assert [event.budget_s for event in published.events if isinstance(event, BudgetChosen)] == [QUICK_BUDGET_S]


def test_a_budget_that_is_too_small_is_told_with_one_that_is_enough() -> None:
    text = plan_text(plan_of(0.5, budget_s=120.0), 1800.0, "a call", is_budget_given=True)
    assert "the budget of 2:00 has room for no build; give --budget 30m, or fewer prompts" in text


def test_a_baseline_that_takes_longer_than_the_budget_is_told_with_what_makes_calls_shorter() -> None:
    remedy = (
        "or pixels: --set workload.height=... --set workload.width=... (or workload.num_frames) makes calls shorter"
    )
    for budget_s, is_told in ((120.0, True), (36_000.0, False)):
        plan = plan_of(20.0, budget_s=budget_s)
        assert (plan.baseline_s > budget_s) is is_told
        assert plan_text(plan, 1800.0, "a call", is_budget_given=True).endswith(remedy) is is_told


def test_a_call_is_told_with_the_size_and_the_steps_that_make_it_slow() -> None:
    assert call_text(ImageSize(width=1024, height=1024), 50) == "a call (1024x1024, 50 steps)"
    assert call_text(ImageSize(width=832, height=480, frames=81), 1) == "a call (832x480, 81 frames, 1 step)"
    assert call_text(None, 4) == "a call (4 steps)"


@pytest.mark.parametrize(
    ("seconds", "text"), [(330, "330s"), (599.5, "600s"), (601, "11m"), (3600, "1h"), (5400, "1h30m"), (90000, "25h")]
)
def test_a_budget_is_written_as_the_option_takes_it(seconds: float, text: str) -> None:
    assert format_budget(seconds) == text


def test_a_plan_is_plain_data() -> None:
    assert msgspec.json.decode(msgspec.json.encode(plan_of(0.2)), type=Plan) == plan_of(0.2)

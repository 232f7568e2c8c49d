"""The plan of a study, and its budget if none was given: both follow from a timed call of the untouched pipeline."""

from __future__ import annotations

from tuner.errors import StudyFailed
from tuner.numbers import format_duration
from tuner.search.budget import QUICK_BUDGET_S, Budget
from tuner.search.history import BASELINE
from tuner.search.plan import Plan, enough_s, make_plan
from tuner.study import narration
from tuner.study.events import BudgetChosen, CallObserved, EndExpected, Note, Publisher

LONGEST_S = 8 * 3600.0
"""No study takes a longer budget by itself."""

OVERRUN_S = 600.0
"""By how much the baseline may exceed the budget. It is measured whatever it takes, but whoever gave minutes did not
mean hours."""


class Planner:
    """Makes the plan after each timed call, and tells it."""

    def __init__(self, budget: Budget, publisher: Publisher) -> None:
        self.budget = budget
        self.publisher = publisher
        self.plan: Plan | None = None
        self.is_budget_given = budget.limits.budget_s is not None

    def observe(self, event: CallObserved) -> None:
        """Make the plan, choose the budget if none was given, and tell both, again if they are clearly different.

        Raises StudyFailed if the second call confirms that the baseline alone takes much longer than the budget: the
        first one may wait for the disk.
        """
        observed, work = event.observed, event.work
        enough = enough_s(observed, work)
        plan = make_plan(observed, work, self.budget.total_s if self.is_budget_given else min(enough, LONGEST_S))
        call = narration.call_text(event.size, work.steps[0])
        text = narration.plan_text(plan, enough, call, is_budget_given=self.is_budget_given)
        if self.plan is not None and plan.once_s + plan.least_s > plan.budget_s + OVERRUN_S:
            raise StudyFailed(text)
        if self.plan is None or narration.is_clearly_different(plan, self.plan):
            self.plan = plan
            if not self.is_budget_given:
                self.publisher.publish(BudgetChosen(plan.budget_s))
            self.publisher.publish(Note(text))
        self.publisher.publish(EndExpected(BASELINE, plan.trial_s - event.passed_s))

    def require_budget(self) -> None:
        """Choose a budget if there is none although the baseline is known: an earlier run measured it."""
        if self.budget.limits.budget_s is None:
            self.publisher.publish(BudgetChosen(QUICK_BUDGET_S))
            budget = format_duration(QUICK_BUDGET_S)
            self.publisher.publish(Note(f"no call was timed: a budget of {budget}; {narration.OTHER_BUDGET}"))

    @property
    def repetition_s(self) -> float:
        """What a repetition of the baseline takes by the plan, 0 if there is none."""
        return self.plan.repetition_s if self.plan else 0.0

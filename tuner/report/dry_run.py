"""What a study would try, before it runs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from tuner.numbers import format_clock, format_duration
from tuner.records.codec import Record, Value, Values
from tuner.records.text import format_value
from tuner.report.console import BASELINE
from tuner.report.formatting import label, one_line, pluralize, wrap_text
from tuner.report.studies import State
from tuner.report.tables import make_table
from tuner.space.candidates import SearchSpace

JUDGED_S = 900.0
"""Judging the finalists takes no longer than this, after the budget."""

RECIPES = (
    "Recipes: combinations that experts recommend, each with the values that it sets. The agent, the default strategy, "
    "weighs them against all others; another --strategy tries them first, in this order."
)


class PlannedRecipe(Record):
    """A recipe that the search may try, with the values that it changes."""

    name: str
    values: Values


class DryRun(Record):
    """What a study would do. `combinations` counts those of all values, some of which do not go together.

    `scorer` says which model judges the images, if one does, and whether it is on this machine.
    `baseline` has the untouched pipeline's values, which need not be among those that are searched.
    `recorded_trials` are those of a study that was begun, whose `state` is not "new" and which has used `spent_s` of
    its budget; `still_to_do` says what a run would add. Without a budget the study chooses one after its first calls.
    """

    model: str
    pipeline_class: str
    device_name: str
    folder: str
    state: State | Literal["new"]
    recorded_trials: int
    spent_s: float
    still_to_do: str
    budget_s: float | None
    max_trials: int | None
    prompts: int
    scorer: str | None
    baseline: Values
    knobs: dict[str, tuple[Value, ...]]
    combinations: int
    recipes: tuple[PlannedRecipe, ...]
    left_out: dict[str, str]


def combinations(space: SearchSpace) -> int:
    """Return the number of combinations of all values that are searched."""
    return math.prod(len(values) for values in space.knobs.values())


def refused_recipes(space: SearchSpace) -> dict[str, str]:
    """Return the recipes that the search will refuse, since they conflict with a pinned value, with the reason."""
    reasons = {recipe.name: space.conflict_reason(space.candidate(recipe.values)) for recipe in space.recipes}
    return {name: reason for name, reason in reasons.items() if reason}


@dataclass(frozen=True)
class DryRunText:
    """The knobs and their values, the recipes, what is left out, and how long it takes."""

    plan: DryRun

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plan, width = self.plan, options.max_width
        title = f"{one_line(plan.model)} ({plan.pipeline_class}) on {one_line(plan.device_name)}"
        yield from wrap_text("", title, width, BASELINE)
        for text in self._facts():
            yield from wrap_text("", text, width)
        yield Text("")
        table = make_table(options, BASELINE)
        table.add_column("knob", style=BASELINE, no_wrap=True)
        table.add_column("values, the untouched pipeline's first", overflow="fold")
        rows = {name: told for name, values in plan.knobs.items() if len(told := self._told(name, values)) > 1}
        for name, told in rows.items():
            table.add_row(name, ", ".join(told))
        yield table
        for text in self._explanations([name for name in rows if name not in plan.baseline]):
            yield from wrap_text("", text, width)
        yield Text("")
        yield from self._recipes(width)
        yield from self._left_out(width)

    def _facts(self) -> Iterator[str]:
        plan = self.plan
        trials = pluralize(plan.recorded_trials, "recorded trial")
        begun = f"{plan.state}, with {trials}, {format_clock(plan.spent_s)} of its time used"
        state = "new" if plan.state == "new" else begun
        yield f"study folder {one_line(plan.folder)}: {state}; this command ran and wrote nothing"
        if plan.state != "new":
            yield f"a run of it would still do: {one_line(plan.still_to_do)}"
        varied = sum(len(values) > 1 for values in plan.knobs.values())
        values = f"{pluralize(varied, 'knob')}, up to {plan.combinations:,} combinations of their values"
        yield f"searched: {values}; judged by the images of {pluralize(plan.prompts, 'prompt')}"
        if plan.scorer is not None:
            yield f"scorer: {one_line(plan.scorer)}"
        if plan.budget_s is None:
            budget = "chosen after the first calls by how long they take, at most 8 h; --budget sets another"
        else:
            judged = format_duration(JUDGED_S)
            budget = f"{format_duration(plan.budget_s)}, then judging the finalists, at most {judged}"
        limit = f", or {pluralize(plan.max_trials, 'trial')}" if plan.max_trials is not None else ""
        yield f"time: {budget}{limit}"

    def _explanations(self, dependent: Sequence[str]) -> Iterator[str]:
        """Say where more stands, and why knobs are `dependent`: the untouched pipeline has no value of theirs."""
        if dependent:
            yield f"Only together with a value of another knob: {', '.join(dependent)}"
        yield f"What each knob does: tune knobs {one_line(self.plan.model)}"

    def _told(self, name: str, values: tuple[Value, ...]) -> list[str]:
        """Return the values of a knob as text, before them the untouched pipeline's, if the knob is active there."""
        if name not in self.plan.baseline:
            return list(map(format_value, values))
        untouched = self.plan.baseline[name]
        mark = "untouched" if untouched in values else "untouched, not searched"
        others = [format_value(value) for value in values if value != untouched]
        return [f"{format_value(untouched)} ({mark})", *others]

    def _recipes(self, width: int) -> Iterator[Text]:
        if not self.plan.recipes:
            yield Text("no recipe applies here")
            return
        yield from wrap_text("", RECIPES, width)
        for index, recipe in enumerate(self.plan.recipes, 1):
            yield from wrap_text(f"{index}. ", f"{one_line(recipe.name)}: {label(recipe.values)}", width, indent=2)

    def _left_out(self, width: int) -> Iterator[Text]:
        names: defaultdict[str, list[str]] = defaultdict(list)
        for name, reason in self.plan.left_out.items():
            names[reason].append(name)
        if names:
            yield Text("")
        for reason, left_out in names.items():
            yield from wrap_text("", f"left out: {', '.join(left_out)}: {one_line(reason)}", width)

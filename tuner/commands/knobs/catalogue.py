"""Collect every knob, value and recipe, and whether it can be used for a pipeline on this machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

from tuner.knobs import KNOBS, Knob, inductor
from tuner.model.pipeline import DEMO
from tuner.records.codec import Record, Value, Values
from tuner.records.machine import Environment
from tuner.records.model import Architecture
from tuner.report.dry_run import refused_recipes
from tuner.report.formatting import one_line
from tuner.space import reader
from tuner.space.candidates import recipe_title
from tuner.space.space_file import read_extended

USER_VALUE = "(your own)"
"""Stands for a file or model of the user's where a knob lists no value but the baseline's."""

Needs: TypeAlias = tuple[dict[str, tuple[Value, ...]], ...]
"""Alternatives of settings of other knobs: in one of them, each knob must have one of its values."""


class KnobValue(Record):
    """One value of a knob, whether it can be used here, and why not."""

    value: Value
    baseline: bool
    changes_image: bool
    available: bool
    reason: str | None


class KnobEntry(Record):
    """One knob.

    `accepts` describes other values than those listed, or is None if there are none. `needs` lists alternative
    settings of other knobs, one of which must be given for this knob to have an effect.
    """

    name: str
    about: str
    acts: Literal["build", "call"]
    changes_image: bool
    needs: Needs
    accepts: str | None
    values: tuple[KnobValue, ...]


class RecipeEntry(Record):
    """One recipe with its settings, and why it cannot be used here; None if it can."""

    name: str
    values: Values
    reason: str | None


class Catalogue(Record):
    """Every knob for one pipeline on one machine.

    `not_offered` maps flags that are left out on purpose to the reason. `space` is the pipeline's search space, which
    has the `recipes`.
    """

    model: str
    pipeline_class: str
    environment: Environment
    knobs: tuple[KnobEntry, ...]
    not_offered: dict[str, str]
    space: str
    recipes: tuple[RecipeEntry, ...]


def catalogue(model: str, architecture: Architecture, environment: Environment) -> Catalogue:
    """Collect all knobs, and the recipes of its search space, for a pipeline on this machine."""
    needs, space_file = _needs(environment), reader.find(None, architecture, model == DEMO)
    return Catalogue(
        model=model,
        pipeline_class=architecture.pipeline_class,
        environment=environment,
        knobs=tuple(_entry(knob, environment, architecture, needs.get(knob.name, ())) for knob in KNOBS.values()),
        not_offered=dict(inductor.NOT_OFFERED),
        space=space_file.stem,
        recipes=tuple(_recipes(space_file, architecture, environment)),
    )


def about(knob: Knob) -> str:
    """Describe a knob: the first paragraph of its docstring, in one line."""
    return one_line((type(knob).__doc__ or "").strip().partition("\n\n")[0])


def _entry(knob: Knob, environment: Environment, architecture: Architecture, needs: Needs) -> KnobEntry:
    values = tuple(_values(knob, environment, architecture))
    return KnobEntry(
        name=knob.name,
        about=about(knob),
        acts=knob.acts,
        changes_image=knob.may_change_image or any(value.changes_image for value in values),
        needs=needs,
        accepts=_accepts(knob),
        values=values,
    )


def _values(knob: Knob, environment: Environment, architecture: Architecture) -> Iterator[KnobValue]:
    """Yield the values of a knob, the baseline's first."""
    baseline = _baseline(knob, environment, architecture)
    for value in dict.fromkeys((baseline, *knob.choices)):
        reason = knob.unavailable_reason(value, environment, architecture)
        yield KnobValue(
            value=value,
            baseline=value == baseline,
            changes_image=value != baseline and knob.changes_image(value),
            available=reason is None,
            reason=reason,
        )


def _baseline(knob: Knob, environment: Environment, architecture: Architecture) -> Value:
    """Return the value of the untouched pipeline; its number of steps is a default of its call."""
    steps = architecture.arguments.get("num_inference_steps")
    return steps if knob.name == "steps" and isinstance(steps, int) else knob.baseline(environment)


def _accepts(knob: Knob) -> str | None:
    """Describe the values that a knob accepts besides its choices, or return None if there are none."""
    if type(knob).invalid_reason is Knob.invalid_reason:
        return None
    return (knob.invalid_reason("") or "any").removeprefix("must be ")


def _recipes(space_file: Path, architecture: Architecture, environment: Environment) -> Iterator[RecipeEntry]:
    """Yield the recipes of a space file as they are written there."""
    space = reader.load(space_file, architecture, environment)
    refused = refused_recipes(space)
    for recipe in read_extended(space_file).recipes:
        reason = space.left_out.get(recipe_title(recipe.name)) or refused.get(recipe.name)
        yield RecipeEntry(name=recipe.name, values=recipe.values, reason=reason)


# ---- what a knob needs ----------------------------------------------------------------------------------------------


def _needs(environment: Environment) -> dict[str, Needs]:
    """Find the settings that each knob needs that has no effect on the untouched pipeline.

    Tries every single setting of another knob, then every pair in which the first makes the second possible.
    """
    baseline = _active_values({}, environment)
    single: list[Values] = [{name: value} for name in baseline for value in _choices(KNOBS[name])]
    double = [
        {**setting, name: value}
        for setting in single
        for name in _active_values(setting, environment)
        if name not in baseline
        for value in _choices(KNOBS[name])
    ]
    needs: dict[str, Needs] = {}
    for settings in (single, double):
        enabling: defaultdict[str, list[Values]] = defaultdict(list)
        for setting in settings:
            for name in _active_values(setting, environment).keys() - baseline.keys() - needs.keys():
                enabling[name].append(setting)
        needs |= {name: _merged(alternatives) for name, alternatives in enabling.items()}
    return needs


def _merged(settings: list[Values]) -> Needs:
    """Merge settings of the same knobs into one with all of their values."""
    groups: defaultdict[tuple[str, ...], list[Values]] = defaultdict(list)
    for setting in settings:
        groups[tuple(setting)].append(setting)
    return tuple(
        {name: tuple(dict.fromkeys(setting[name] for setting in group)) for name in names}
        for names, group in groups.items()
    )


def _choices(knob: Knob) -> tuple[Value, ...]:
    """Return the values to try, with a user's value for a knob that lists only the baseline's."""
    return knob.choices if len(knob.choices) > 1 or not _accepts(knob) else (*knob.choices, USER_VALUE)


def _active_values(setting: Values, environment: Environment) -> Values:
    """Return the values of all knobs that are active in a setting, with the baseline's for the rest."""
    values: Values = {}
    for name, knob in KNOBS.items():
        if knob.is_active(values):
            values[name] = setting.get(name, knob.baseline(environment))
    return values

"""`tune knobs`: what can be varied on this machine and this pipeline, value by value, and why not where it cannot."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from tuner.knobs import KNOBS, Knob, inductor
from tuner.records.codec import Record, Value, Values
from tuner.records.machine import Environment
from tuner.records.model import Architecture
from tuner.report.console import BASELINE, QUIET, glyphs_for
from tuner.report.formatting import format_value, one_line, pluralize, wrap_text

INDENT = 4
LABEL = 11


YOUR_OWN = "(your own)"
"""Stands for a file or a model of the user's where a knob lists no value but the untouched pipeline's."""

Needs = tuple[dict[str, tuple[Value, ...]], ...]
"""Settings of other knobs, of which a knob needs one: all of its names, any of their values."""


class KnobValue(Record):
    """One value of a knob: whether it can be used here, and why not."""

    value: Value
    baseline: bool
    changes_image: bool
    available: bool
    reason: str | None


class KnobEntry(Record):
    """One knob. `accepts` says what any value must be where others than those listed will do; `needs` the settings of
    other knobs without which it means nothing: one of them, with all of its names and any of their values."""

    name: str
    about: str
    acts: Literal["build", "call"]
    changes_image: bool
    needs: Needs
    accepts: str | None
    values: tuple[KnobValue, ...]


class Catalogue(Record):
    """Every knob, for one pipeline on one machine; `not_offered` holds flags that are left out on purpose, and why."""

    model: str
    pipeline_class: str
    environment: Environment
    knobs: tuple[KnobEntry, ...]
    not_offered: dict[str, str]


def catalogue(model: str, architecture: Architecture, environment: Environment) -> Catalogue:
    """What every knob can do for this pipeline on this machine."""
    needs = _needs(environment)
    return Catalogue(
        model=model,
        pipeline_class=architecture.pipeline_class,
        environment=environment,
        knobs=tuple(_entry(knob, environment, architecture, needs.get(knob.name, ())) for knob in KNOBS.values()),
        not_offered=dict(inductor.NOT_OFFERED),
    )


def about(knob: Knob) -> str:
    """What the knob is: the first paragraph of its docstring, in one line."""
    return one_line((type(knob).__doc__ or "").strip().partition("\n\n")[0])


def _untouched(knob: Knob, environment: Environment, architecture: Architecture) -> Value:
    """The value of the untouched pipeline; how many steps it takes stands in its call."""
    own = architecture.arguments.get("num_inference_steps")
    return own if knob.name == "steps" and isinstance(own, int) else knob.baseline(environment)


def _entry(knob: Knob, environment: Environment, architecture: Architecture, needs: Needs) -> KnobEntry:
    untouched = _untouched(knob, environment, architecture)
    values = []
    for value in dict.fromkeys((untouched, *knob.choices)):
        reason = knob.unavailable_reason(value, environment, architecture)
        values.append(
            KnobValue(
                value=value,
                baseline=value == untouched,
                changes_image=value != untouched and knob.changes_image(value),
                available=reason is None,
                reason=reason,
            )
        )
    return KnobEntry(
        name=knob.name,
        about=about(knob),
        acts=knob.acts,
        changes_image=knob.may_change_image or any(value.changes_image for value in values),
        needs=needs,
        accepts=_accepts(knob),
        values=tuple(values),
    )


def _accepts(knob: Knob) -> str | None:
    """What any value of a knob must be, in its own words; None when it takes no others than its choices."""
    if type(knob).invalid_reason is Knob.invalid_reason:
        return None
    return (knob.invalid_reason("") or "any").removeprefix("must be ")


def _needs(environment: Environment) -> dict[str, Needs]:
    """What each knob needs that means nothing beside the untouched pipeline: one setting, or two where one makes the
    other possible."""
    untouched = _candidate({}, environment)
    single: list[Values] = [{name: value} for name in untouched for value in _choices(KNOBS[name])]
    double = [
        {**setting, name: value}
        for setting in single
        for name in _candidate(setting, environment)
        if name not in untouched
        for value in _choices(KNOBS[name])
    ]
    found: defaultdict[str, defaultdict[tuple[str, ...], list[Values]]] = defaultdict(lambda: defaultdict(list))
    for settings in (single, double):
        known = set(found)
        for setting in settings:
            for name in _candidate(setting, environment):
                if name not in untouched and name not in known:
                    found[name][tuple(setting)].append(setting)
    return {
        knob: tuple(
            {name: tuple(dict.fromkeys(setting[name] for setting in alike)) for name in names}
            for names, alike in alternatives.items()
        )
        for knob, alternatives in found.items()
    }


def _choices(knob: Knob) -> tuple[Value, ...]:
    """The values to try; a knob that lists none but the untouched pipeline's takes one that the user brings."""
    return knob.choices if len(knob.choices) > 1 or not _accepts(knob) else (*knob.choices, YOUR_OWN)


def _candidate(different: Values, environment: Environment) -> Values:
    """The values of all knobs that mean something beside these and the untouched pipeline's."""
    values: Values = {}
    for name, knob in KNOBS.items():
        if knob.is_active(values):
            values[name] = different.get(name, knob.baseline(environment))
    return values


# ---- as a table -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CatalogueTable:
    """The catalogue for people: a row for each knob, below it what it is, its values, and why others cannot be used."""

    catalogue: Catalogue

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, knobs = options.max_width, self.catalogue.knobs
        rule = glyphs_for(options.ascii_only).rule * width
        name_width = max(len("knob"), *(len(knob.name) for knob in knobs)) + 2
        yield from _introduction(self.catalogue, width)
        yield Text(f"{'knob':<{name_width}}{'acts on':<9}changes", style=BASELINE)
        yield Text(rule, style=QUIET)
        usable = {(knob.name, value.value) for knob in knobs for value in knob.values if value.available}
        usable |= {(knob.name, YOUR_OWN) for knob in knobs if knob.accepts}
        for knob in knobs:
            row = Text(f"{knob.name:<{name_width}}", style=BASELINE)
            row.append(f"{knob.acts:<9}{_changes(knob)}", style="not bold")
            yield row
            yield from _details(knob, usable, width)
        yield Text(rule, style=QUIET)
        yield from _not_offered(self.catalogue.not_offered, width)
        yield from wrap_text("", _totals(knobs), width)


def _introduction(found: Catalogue, width: int) -> Iterator[Text]:
    here = found.environment
    model = "the pipeline that comes with tune" if found.model == "demo" else found.model
    mixed = any(_is_mixed(knob) for knob in found.knobs)
    yield Text(f"What `tune run` can vary in {model} ({found.pipeline_class})", style=BASELINE)
    yield from wrap_text("on ", f"{here.device_name}, torch {here.libraries.get('torch')}", width, BASELINE)
    yield Text("")
    for label, text in (
        ("acts on", "build: the pipeline is built anew, in a process of its own, often with minutes of compiling"),
        ("", "call: how the built pipeline is called, which costs nothing to vary"),
        ("changes", "cost: time and memory alone; the image stays the same but for rounding"),
        ("", "image: the image too, so it is compared with the untouched pipeline's"),
        ("*", "marks the value of the untouched pipeline"),
        *([("~", "marks the values that may change the image, where others of the knob do not")] if mixed else []),
    ):
        yield from wrap_text(f"{label:<10}", text, width)
    if found.model == "demo":
        yield Text("")
        yield from wrap_text(
            "", "For your own pipeline: tune knobs FOLDER, or tune knobs OWNER/NAME from the hub.", width
        )
    yield Text("")


def _changes(knob: KnobEntry) -> str:
    if not knob.changes_image:
        return "cost"
    return "image (where ~)" if _is_mixed(knob) else "image"


def _is_mixed(knob: KnobEntry) -> bool:
    """Whether some of a knob's other values change the image and some do not."""
    return len({value.changes_image for value in knob.values if not value.baseline}) == 2


def _details(knob: KnobEntry, usable: Set[tuple[str, Value]], width: int) -> Iterator[Text]:
    yield from wrap_text("", knob.about, width, indent=INDENT)
    here = ", ".join(_shown(knob, value) for value in knob.values if value.available) or "none"
    yield from wrap_text(f"{'values':<{LABEL}}", here, width, "green", INDENT)
    can_change = any(value.available for value in knob.values[1:] or knob.values)
    if knob.accepts and can_change:
        yield from wrap_text(f"{'accepts':<{LABEL}}", knob.accepts, width, indent=INDENT)
    for number, setting in enumerate(knob.needs if can_change else ()):
        names = " and ".join(f"{name}={' or '.join(map(format_value, values))}" for name, values in setting.items())
        can = all(any((name, value) in usable for value in values) for name, values in setting.items())
        label = f"{'or with' if number else 'only with':<{LABEL}}"
        yield from wrap_text(label, names if can else f"{names}, which cannot be used here", width, indent=INDENT)
    refused = {value: value.reason for value in knob.values if value.reason is not None}
    for number, (reason, without) in enumerate(by_reason({v.value: why for v, why in refused.items()}).items()):
        names = ", ".join(_shown(knob, value) for value in refused if value.value in without)
        yield from wrap_text(f"{'' if number else 'not here':<{LABEL}}", f"{names}: {reason}", width, "yellow", INDENT)
    yield Text("")


def by_reason(refused: Mapping[Value, str]) -> dict[str, list[Value]]:
    """Values that cannot be used, by reason; reasons that differ in nothing but the value they begin with are one."""
    alike: defaultdict[tuple[str, str], list[Value]] = defaultdict(list)
    for value, reason in refused.items():
        text, name = one_line(reason), f"{value} "
        alike[("its", text.removeprefix(name)) if text.startswith(name) else ("", text)].append(value)
    found: dict[str, list[Value]] = {}
    for (subject, text), values in alike.items():
        if subject and re.match(r"\w*s ", text):  # a verb: is, needs, runs
            found[f"it {text}"] = values
        elif subject:
            found[f"{values[0]} {text}" if len(values) == 1 else f"their {text}"] = values
        else:
            found.setdefault(text, []).extend(values)
    return found


def _shown(knob: KnobEntry, value: KnobValue) -> str:
    image = "~" if value.changes_image and _is_mixed(knob) else ""
    return f"{image}{format_value(value.value)}{'*' if value.baseline else ''}"


def _not_offered(flags: dict[str, str], width: int) -> Iterator[Text]:
    if not flags:
        return
    yield Text("Left out on purpose", style=BASELINE)
    names: defaultdict[str, list[str]] = defaultdict(list)
    for name, reason in flags.items():
        names[one_line(reason)].append(name)
    for reason, alike in names.items():
        yield from wrap_text("", reason, width)
        for name in alike:
            yield from wrap_text("", name, width, QUIET, INDENT)
    yield Text("")


def _totals(knobs: tuple[KnobEntry, ...]) -> str:
    values = [value for knob in knobs for value in knob.values]
    missing = sum(not value.available for value in values)
    text = (
        f"{pluralize(len(knobs), 'knob')}, {pluralize(len(values), 'value')}: {len(values) - missing} can be used here"
    )
    text += f", {missing} cannot. `tune doctor` says what would change that." if missing else "."
    return f"{text} Not all go together; `tune run` skips combinations that cannot work and says why."

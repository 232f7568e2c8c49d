"""Render the catalogue of knobs for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from tuner.commands.knobs.catalogue import USER_VALUE, Catalogue, KnobEntry, KnobValue
from tuner.commands.reasons import group_by_reason
from tuner.records.codec import Value
from tuner.records.text import format_value
from tuner.report.console import BASELINE, QUIET, glyphs_for
from tuner.report.formatting import label, one_line, pluralize, wrap_text
from tuner.report.tables import draw_with_details, make_table, width_of

INDENT = 4
LABEL_WIDTH = 11


@dataclass(frozen=True)
class CatalogueTable:
    """The catalogue as text: a row per knob, then its description, its values, and why others cannot be used."""

    catalogue: Catalogue

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, knobs = options.max_width, self.catalogue.knobs
        usable = _usable_settings(knobs)
        yield from _introduction(self.catalogue, width)
        tables = [_table(knobs, count, options) for count in range(len(COLUMNS), 0, -1)]
        table = next((table for table in tables if width_of(table, console, options) <= width), tables[-1])
        hidden = list(COLUMNS)[len(table.columns) :]
        yield from draw_with_details(table, [_details(knob, hidden, usable, width) for knob in knobs], console, options)
        yield Text(glyphs_for(options.ascii_only).rule * width, style=QUIET)
        yield from _not_offered(self.catalogue.not_offered, width)
        yield from _recipes(self.catalogue, width)
        yield from wrap_text("", _totals(knobs), width)


def _introduction(catalogue: Catalogue, width: int) -> Iterator[Text]:
    env, is_demo = catalogue.environment, catalogue.model == "demo"
    model = "the bundled demo pipeline" if is_demo else catalogue.model
    title = f"Knobs of `tune run` for {one_line(model)} ({catalogue.pipeline_class})"
    yield from wrap_text("", title, width, BASELINE)
    yield from wrap_text("on ", f"{env.device_name}, torch {env.libraries.get('torch')}", width, BASELINE)
    yield Text("")
    for heading, text in _legend(catalogue.knobs):
        yield from wrap_text(f"{heading:<10}", text, width)
    if is_demo:
        yield Text("")
        yield from wrap_text("", "For your own pipeline: tune knobs FOLDER, or tune knobs OWNER/NAME", width)
    yield Text("")


def _legend(knobs: Sequence[KnobEntry]) -> Iterator[tuple[str, str]]:
    yield "acts on", "build: each value needs a new worker process, and often minutes of compiling"
    yield "", "call: an argument of the call; the built pipeline is reused"
    yield "changes", "cost: only time and memory; the image stays the same up to rounding"
    yield "", "image: the image too, so its quality is compared with the baseline's"
    yield "*", "the value of the untouched pipeline"
    if any(map(_is_mixed, knobs)):
        yield "~", "a value that may change the image, where other values of the knob do not"


def _usable_settings(knobs: Sequence[KnobEntry]) -> Set[tuple[str, Value]]:
    """Return each knob name with each value that can be used here."""
    listed = {(knob.name, value.value) for knob in knobs for value in knob.values if value.available}
    return listed | {(knob.name, USER_VALUE) for knob in knobs if knob.accepts}


# ---- one knob -------------------------------------------------------------------------------------------------------


def _table(knobs: Sequence[KnobEntry], count: int, options: ConsoleOptions) -> Table:
    """Make the table of the first `count` columns."""
    table = make_table(options, BASELINE)
    for heading in list(COLUMNS)[:count]:
        table.add_column(heading, style="" if table.columns else BASELINE, no_wrap=True)
    for knob in knobs:
        table.add_row(*(cell(knob) for cell in list(COLUMNS.values())[:count]))
    return table


def _changes(knob: KnobEntry) -> str:
    if not knob.changes_image:
        return "cost"
    return "image (where ~)" if _is_mixed(knob) else "image"


COLUMNS: Mapping[str, Callable[[KnobEntry], str]] = {
    "knob": lambda knob: knob.name, "acts on": lambda knob: knob.acts, "changes": _changes,
}  # fmt: skip
"""The headings of the columns, and what stands in them."""


def _is_mixed(knob: KnobEntry) -> bool:
    """Return whether some of a knob's other values change the image and some do not."""
    return len({value.changes_image for value in knob.values if not value.baseline}) == 2


def _details(knob: KnobEntry, hidden: Sequence[str], usable: Set[tuple[str, Value]], width: int) -> Iterator[Text]:
    """Yield what stands below a knob: its `hidden` columns, its description, its values and why others cannot be."""
    for heading in hidden:
        yield from _labelled(heading, COLUMNS[heading](knob), width)
    yield from wrap_text("", knob.about, width, indent=INDENT)
    values = ", ".join(_shown(knob, value) for value in knob.values if value.available) or "none"
    yield from _labelled("values", values, width, "green")
    if any(value.available for value in knob.values[1:] or knob.values):
        yield from _requirements(knob, usable, width)
    yield from _unavailable(knob, width)
    yield Text("")


def _requirements(knob: KnobEntry, usable: Set[tuple[str, Value]], width: int) -> Iterator[Text]:
    if knob.accepts:
        yield from _labelled("accepts", knob.accepts, width)
    for number, setting in enumerate(knob.needs):
        text = " and ".join(f"{name}={' or '.join(map(format_value, values))}" for name, values in setting.items())
        if not all(any((name, value) in usable for value in values) for name, values in setting.items()):
            text += ", which cannot be used here"
        yield from _labelled("or with" if number else "only with", text, width)


def _unavailable(knob: KnobEntry, width: int) -> Iterator[Text]:
    refused = {value.value: value.reason for value in knob.values if value.reason is not None}
    for number, (reason, values) in enumerate(group_by_reason(refused).items()):
        names = ", ".join(_shown(knob, value) for value in knob.values if value.reason and value.value in values)
        yield from _labelled("" if number else "not here", f"{names}: {reason}", width, "yellow")


def _labelled(label: str, text: str, width: int, style: str = "") -> Iterator[Text]:
    return wrap_text(f"{label:<{LABEL_WIDTH}}", text, width, style, INDENT)


def _shown(knob: KnobEntry, value: KnobValue) -> str:
    image = "~" if value.changes_image and _is_mixed(knob) else ""
    return f"{image}{format_value(value.value)}{'*' if value.baseline else ''}"


# ---- the end --------------------------------------------------------------------------------------------------------


def _not_offered(flags: dict[str, str], width: int) -> Iterator[Text]:
    if not flags:
        return
    yield Text("Left out on purpose", style=BASELINE)
    names_by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for name, reason in flags.items():
        names_by_reason[one_line(reason)].append(name)
    for reason, names in names_by_reason.items():
        yield from wrap_text("", reason, width)
        for name in names:
            yield from wrap_text("", name, width, QUIET, INDENT)
    yield Text("")


def _recipes(catalogue: Catalogue, width: int) -> Iterator[Text]:
    if not catalogue.recipes:
        return
    yield Text(f"Recipes of the search space {catalogue.space}", style=BASELINE)
    for recipe in catalogue.recipes:
        yield from wrap_text("- ", f"{one_line(recipe.name)}: {label(recipe.values)}", width, indent=INDENT - 2)
        if recipe.reason is not None:
            yield from wrap_text("", f"not here: {one_line(recipe.reason)}", width, "yellow", INDENT)
    yield Text("")


def _totals(knobs: Sequence[KnobEntry]) -> str:
    values = [value for knob in knobs for value in knob.values]
    missing = sum(not value.available for value in values)
    text = (
        f"{pluralize(len(knobs), 'knob')}, {pluralize(len(values), 'value')}: {len(values) - missing} can be used here"
    )
    text += f", {missing} cannot; `tune doctor` lists the packages that would help." if missing else "."
    return f"{text} Some values exclude each other; `tune run` skips those combinations and reports the reason."

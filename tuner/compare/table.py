"""Render a comparison for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from tuner.compare import cells
from tuner.compare.comparison import letter
from tuner.compare.records import Changes, ComparedPoint, Comparison
from tuner.report.console import BASELINE, CHOSEN, QUIET
from tuner.report.formatting import wrap_text
from tuner.report.tables import add_number_column, draw_with_details, make_bare_table, make_table

INDENT = 4


@dataclass(frozen=True)
class CompareTable:
    """A comparison as text: the sources, all points by price, each machine's offers, and what changed."""

    comparison: Comparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown, width = self.comparison, options.max_width
        for index, source in enumerate(shown.sources):
            yield from wrap_text(f"{letter(index)}  ", cells.source_text(source), width)
        yield Text("")
        below = [[*_below(point, width)] for point in shown.points]
        yield from draw_with_details(_points(shown.points, options), below, console, options)
        yield Text("")
        for text in (*cells.legend(shown), *shown.notes):
            yield from wrap_text("", text, width, QUIET)
        yield from _instances(shown, options)
        if shown.changes is not None:
            yield from _changes(shown.changes, options)


def _points(points: Sequence[ComparedPoint], options: ConsoleOptions) -> Table:
    table = make_table(options, BASELINE)
    for heading in cells.POINTS[:-1]:
        add_number_column(table, heading.replace(" ", "\n").replace("/s", "\n/s"))
    table.add_column(Text(cells.POINTS[-1]), no_wrap=True)
    for point in points:
        style = CHOSEN if point.is_cheapest else BASELINE if point.is_baseline else ""
        table.add_row(*map(Text, (cells.name(point), *cells.point_cells(point))), style=style)
    return table


def _below(point: ComparedPoint, width: int) -> Iterator[Text]:
    yield from wrap_text("", cells.settings(point), width, QUIET, INDENT)
    yield from wrap_text("", cells.details(point), width, QUIET, INDENT)


def _instances(shown: Comparison, options: ConsoleOptions) -> Iterator[RenderableType]:
    """Yield the chosen configurations at each offer."""
    if not shown.instances:
        return
    yield Text("\nThe chosen configurations, per instance", style=BASELINE)
    yield filled(make_table(options), cells.INSTANCES, map(cells.instance_cells, shown.instances))


def _changes(changes: Changes, options: ConsoleOptions) -> Iterator[RenderableType]:
    """Yield what changed from the older result to the newer one."""
    yield Text(f"\nWhat changed from {letter(changes.before)} to {letter(changes.after)}", style=BASELINE)
    for title, figures in cells.figure_rows(changes):
        yield filled(make_table(options), (title, *cells.FIGURES[1:]), figures, is_whole=options.max_width >= WIDE)
        yield Text("")
    yield from wrap_text("", cells.TOLD_APART, options.max_width, QUIET)
    for title, rows in cells.changed_rows(changes):
        yield Text(f"\n{title}" + ("" if rows else ": as before"), style=BASELINE)
        if rows:
            yield filled(make_bare_table(), cells.CHANGED, rows)


WIDE = 100
"""Columns of a terminal in which figures with intervals stay whole."""


def filled(table: Table, headings: Sequence[str], rows: Iterable[Sequence[str]], *, is_whole: bool = False) -> Table:
    """Return a table with these columns and rows; if they stay whole, only the first column wraps."""
    for heading in headings:
        table.add_column(Text(heading), overflow="fold", no_wrap=is_whole and bool(table.columns))
    for row in rows:
        table.add_row(*map(Text, row))
    return table

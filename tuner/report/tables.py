"""Tables: a rule below the headings, no other lines, and whole columns or none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import Box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

GAP = 2
"""Columns of the terminal between two columns of a table."""

_BLANK = "    \n"
_HEAD = Box(_BLANK * 2 + " ── \n" + _BLANK * 5)
_ASCII_HEAD = Box(_BLANK * 2 + " -- \n" + _BLANK * 5, ascii=True)


def make_table(options: ConsoleOptions, header_style: str = "bold") -> Table:
    """Make an empty table with a rule below its headings, in ASCII where the stream's encoding requires it."""
    box = _ASCII_HEAD if options.ascii_only else _HEAD
    # The box takes one column between two cells, the padding the other.
    return Table(box=box, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0), header_style=header_style)


def make_bare_table(header_style: str = "bold") -> Table:
    """Make an empty table without a rule."""
    return Table(box=None, show_edge=False, pad_edge=False, padding=(0, GAP, 0, 0), header_style=header_style)


def add_number_column(table: Table, heading: str, style: str = "") -> None:
    """Add a right-aligned column that never wraps; a heading may have two lines."""
    table.add_column(Text(heading, justify="right"), justify="right", no_wrap=True, overflow="crop", style=style)


def draw_with_details(
    table: Table, details: Sequence[Iterable[RenderableType]], console: Console, options: ConsoleOptions
) -> RenderResult:
    """Draw a table whose rows take one line each, with the details of each row below it.

    A table that is too wide keeps its width, and its lines are folded.
    """
    whole = options.update(width=max(options.max_width, width_of(table, console, options)))
    lines = console.render_lines(table, whole, pad=False)
    head = len(lines) - len(details)
    for line, below in zip(lines, [()] * head + list(details), strict=True):
        yield _joined(line)
        yield from below


def _joined(line: Sequence[Segment]) -> Text:
    """Return the text of a rendered line, without the spaces at its end."""
    text = Text.assemble(*((segment.text, segment.style or "") for segment in line), overflow="fold")
    text.rstrip()
    return text


def width_of(table: Table, console: Console, options: ConsoleOptions) -> int:
    """Return the width that a table takes where there is room for all of it."""
    return Measurement.get(console, options.update(width=100_000, max_width=100_000), table).maximum

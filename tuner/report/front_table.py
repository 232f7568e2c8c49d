"""The front as a table: whole at the end of a study, in few rows while it runs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from tuner.report.console import BASELINE, CHOSEN, GAP, QUIET, Glyphs, glyphs_for
from tuner.report.formatting import (
    decimals,
    difference_places,
    format_difference,
    format_latency,
    one_line,
    shorten,
    wrap_text,  # fmt: skip
)
from tuner.report.points import FrontPoint, in_order, is_marked, mark


def table(points: Sequence[FrontPoint], metric: str = "CLIP score") -> RenderableType:
    """The baseline on top, then the front in order of cost, the chosen point marked."""
    if not points:
        return Text("Nothing was measured.")
    return _FrontTable(tuple(in_order(points)), one_line(metric))


@dataclass(frozen=True)
class _FrontTable:
    """The front; configurations stand below their numbers where they do not fit beside them."""

    points: tuple[FrontPoint, ...]
    metric: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs, width = glyphs_for(options.ascii_only), options.max_width
        digits = _digits(self.points)
        rows = [
            (f"{_mark(point, glyphs) or ' '} {point.number:>{digits}}", *cells)
            for point, cells in zip(self.points, _number_cells(self.points), strict=True)
        ]
        headings = (("", "trial"), *_headings(self.metric))
        columns = zip(*rows, strict=True)
        widths = [max(map(len, (*heading, *column))) for heading, column in zip(headings, columns, strict=True)]
        taken = sum(widths) + GAP * (len(widths) - 1)
        longest = max(len(_name(point)) for point in self.points)
        is_beside = taken + GAP + longest <= width
        shown = len(widths) if taken <= width else len(widths) - 1
        for line in range(2):
            title = "  configuration" if is_beside and line == 1 else ""
            yield Text(_aligned([heading[line] for heading in headings[:shown]], widths) + title, style=BASELINE)
        rule = taken + GAP + max(longest, len("configuration")) if is_beside else taken
        yield Text(glyphs.rule * min(width, rule), style=QUIET)
        for point, row in zip(self.points, rows, strict=True):
            name = f"  {_name(point)}" if is_beside else ""
            yield Text(_aligned(row[:shown], widths) + name, style=_style(point))
            if not is_beside:
                yield from _below(point, row[shown:], width)
        yield from wrap_text("", "   ".join(_notes(self.points, glyphs)), width, QUIET)


def _notes(points: Sequence[FrontPoint], glyphs: Glyphs) -> Iterator[str]:
    """How to read the table."""
    yield f"{glyphs.chosen} chosen"
    yield f"{glyphs.baseline} baseline, the untouched pipeline"
    if any(point.is_predicted for point in points):
        yield "~ predicted from other step counts"
    if any(point.misses_target for point in points):
        yield "! misses the latency target"


def _below(point: FrontPoint, left: Sequence[str], width: int) -> Iterator[Text]:
    """The cells that had no room in the row, then the name."""
    lines = [f"difference {cell}" for cell in left if not point.is_baseline]
    lines += textwrap.wrap(_name(point), max(20, width - 4), break_on_hyphens=False)
    for line in lines:
        yield Text(f"    {line}", style=_style(point) or QUIET)


def _headings(metric: str) -> tuple[tuple[str, str], ...]:
    head, _, tail = metric.rpartition(" ")
    return (
        ("", "latency"),
        ("", "images/s"),
        ("US$/1000", "images"),
        ("", "speed-up"),
        (head, tail),
        ("difference", "[95 % interval]"),
    )


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return (" " * GAP).join(cell.rjust(width) for cell, width in zip(cells, widths, strict=False)).rstrip()


def _mark(point: FrontPoint, glyphs: Glyphs) -> str:
    return mark(point, glyphs) if is_marked(point) else ""


def _digits(points: Sequence[FrontPoint]) -> int:
    return max(len(str(point.number)) for point in points)


def _style(point: FrontPoint) -> str:
    if point.is_chosen:
        return CHOSEN
    return BASELINE if point.is_baseline else ""


def _name(point: FrontPoint) -> str:
    text = one_line(point.label)
    if point.is_baseline and text != "baseline":
        text = f"baseline {text}".strip()
    return f"{text} (chosen)" if point.is_chosen else text


def _number_cells(points: Sequence[FrontPoint]) -> list[tuple[str, str, str, str, str, str]]:
    """The numbers of each row, every column with decimals of its own."""
    cost_places = decimals(min(p.cost_usd_per_1000_images for p in points), 3)
    rate_places = decimals(min(p.images_per_s for p in points), 3)
    places = difference_places((p.quality_low, p.quality_high) for p in points if not p.is_baseline)
    return [
        (
            f"{'~' if p.is_predicted else ''}{format_latency(p.latency_s)}{'!' if p.misses_target else ''}",
            f"{p.images_per_s:.{rate_places}f}",
            f"{p.cost_usd_per_1000_images:.{cost_places}f}",
            f"{p.speed_up:.2f}x",
            f"{p.quality:.{places}f}",
            _difference_cell(p, places),
        )
        for p in points
    ]


def _difference_cell(p: FrontPoint, places: int) -> str:
    if p.is_baseline:
        return "reference"
    shift = p.difference - p.quality
    return format_difference(p.difference, p.quality_low + shift, p.quality_high + shift, places)


@dataclass(frozen=True)
class CompactFront:
    """A front (not empty) in few rows: the baseline and the chosen point always, then the cheapest."""

    points: tuple[FrontPoint, ...]
    rows: int
    metric: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs, width = glyphs_for(options.ascii_only), options.max_width
        shown = self._shown()
        score = [self.metric] if width >= 84 else []
        headings = ("trial", "US$/1000", "speed-up", *score, "difference")
        digits = _digits(shown)
        rows = [
            (
                f"{mark(p, glyphs)} {p.number:>{digits}}",
                cost,
                speed,
                *([mean] if score else []),
                difference.split(" ")[0],
            )
            for p, (_, _, cost, speed, mean, difference) in zip(shown, _number_cells(shown), strict=True)
        ]
        widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
        yield Text(shorten(f"{_aligned(headings, widths)}  configuration", width), style=QUIET)
        for point, row in zip(shown, rows, strict=True):
            yield Text(shorten(f"{_aligned(row, widths)}  {_name(point)}", width), style=_style(point))
        if len(self.points) > len(shown):
            yield Text(f"and {len(self.points) - len(shown)} more", style=QUIET)

    def _shown(self) -> list[FrontPoint]:
        points = in_order(self.points)
        kept = sorted(points, key=lambda point: not is_marked(point))[: max(1, self.rows)]
        return in_order(kept)

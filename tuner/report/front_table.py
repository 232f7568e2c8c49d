"""The front as a table: all of it at the end of a study, a few rows while one runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from tuner.numbers import decimals, difference_places, format_difference, format_fixed, format_latency, format_number
from tuner.report.console import BASELINE, CHOSEN, QUIET, Glyphs, glyphs_for
from tuner.report.formatting import OneLine, one_line, wrap_text
from tuner.report.points import (
    FrontPoint,
    difference_marks,
    gain_cell,
    in_order,
    is_marked,
    mark,
    quality_marks,
    quality_notes,
)
from tuner.report.tables import add_number_column, make_bare_table, make_table, width_of

SCORE_FROM_WIDTH = 84
"""The narrowest terminal in which the compact table shows the score beside its difference."""


def front_table(points: Sequence[FrontPoint], metric: str = "CLIP score") -> RenderableType:
    """Return a table with the baseline on top, then the front in order of cost, the chosen point marked."""
    if not points:
        return Text("Nothing was measured.")
    return _FrontTable(tuple(in_order(points)), one_line(metric))


@dataclass(frozen=True)
class _FrontTable:
    """The front. What does not fit beside the numbers moves to a second table below them."""

    points: tuple[FrontPoint, ...]
    metric: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        def fits(table: Table) -> bool:
            return width_of(table, console, options) <= options.max_width

        count = len(self._headings())
        whole = self._numbers(options, count, has_configuration=True)
        if fits(whole):
            yield whole
        else:
            shown = next((n for n in range(count, 1, -1) if fits(self._numbers(options, n))), 1)
            yield from (self._numbers(options, shown), Text(""), self._configurations(options, shown < count))
        notes = "   ".join(_notes(self.points, glyphs_for(options.ascii_only)))
        yield from wrap_text("", notes, options.max_width, QUIET)

    def _headings(self) -> tuple[str, ...]:
        return _headings(self.metric, has_energy=_has_energy(self.points))

    def _numbers(self, options: ConsoleOptions, count: int, has_configuration: bool = False) -> Table:
        """Make the table of the first `count` columns of numbers."""
        glyphs, table = glyphs_for(options.ascii_only), make_table(options)
        for heading in ("\ntrial", *self._headings()[:count]):
            add_number_column(table, heading)
        if has_configuration:
            table.add_column("\nconfiguration", no_wrap=True)
        for point, cells in zip(self.points, _cells(self.points), strict=True):
            name = [_name(point)] if has_configuration else []
            number = _marked_number(point, self.points, glyphs)
            table.add_row(*_texts(number, *cells[:count], *name), style=_style(point))
        return table

    def _configurations(self, options: ConsoleOptions, has_difference: bool) -> Table:
        table = make_table(options)
        for heading in ("trial", *(["difference"] if has_difference else [])):
            add_number_column(table, heading)
        table.add_column("configuration", overflow="fold")
        for point, cells in zip(self.points, _cells(self.points), strict=True):
            difference = [cells[-1]] if has_difference else []
            table.add_row(*_texts(str(point.number), *difference, _name(point)), style=_style(point))
        return table


def _texts(*cells: str) -> list[Text]:
    return [Text(cell) for cell in cells]


def _marked_number(point: FrontPoint, points: Sequence[FrontPoint], glyphs: Glyphs, otherwise: str = " ") -> str:
    digits = max(len(str(other.number)) for other in points)
    return f"{mark(point, glyphs) if is_marked(point) else otherwise} {point.number:>{digits}}"


def _notes(points: Sequence[FrontPoint], glyphs: Glyphs) -> Iterator[str]:
    """Yield the legend."""
    yield f"{glyphs.chosen} chosen"
    yield f"{glyphs.baseline} baseline, the untouched pipeline"
    if any(point.is_predicted for point in points):
        yield "~ predicted from other step counts"
    if any(point.is_doubtful for point in points):
        yield "? in doubt: measured again beside the baseline, it may be no faster"
    if any(point.misses_target for point in points):
        yield "! misses the latency target"
    yield from quality_notes(points)


def _has_energy(points: Sequence[FrontPoint]) -> bool:
    return any(point.joules_per_image is not None for point in points)


def _headings(metric: str, *, has_energy: bool) -> tuple[str, ...]:
    """Return the headings of the columns of numbers, each of two lines. Energy is shown where the GPU tells it."""
    energy = ("joules/\nimage",) if has_energy else ()
    head, _, tail = metric.rpartition(" ")
    difference = "difference\n[95 % interval]"
    return ("\nlatency", "\nimages/s", "US$/1000\nimages", *energy, "\nspeed-up", f"{head}\n{tail}", difference)


def _style(point: FrontPoint) -> str:
    if point.is_chosen:
        return CHOSEN
    return BASELINE if point.is_baseline else ""


def _name(point: FrontPoint) -> str:
    return f"{_label(point)} (chosen)" if point.is_chosen else _label(point)


def _label(point: FrontPoint) -> str:
    text = one_line(point.label)
    is_named = not point.is_baseline or text == "baseline"
    return text if is_named else f"baseline {text}".strip()


def _cells(points: Sequence[FrontPoint]) -> list[tuple[str, ...]]:
    """Return the cells of each row, the difference last. Each column has its own number of decimals."""
    cost_places = decimals(min(p.cost_usd_per_1000_images for p in points), 3)
    rate_places = decimals(min(p.images_per_s for p in points), 3)
    intervals = [(p.quality_low, p.quality_high) for p in points if not p.is_baseline]
    places = difference_places(intervals, points[0].quality)
    return [
        (
            f"{_tilde(p)}{format_latency(p.latency_s)}{'!' if p.misses_target else ''}",
            format_fixed(p.images_per_s, rate_places),
            format_fixed(p.cost_usd_per_1000_images, cost_places),
            *([_joules(p)] if _has_energy(points) else []),
            gain_cell(p),
            f"{format_fixed(p.quality, places)}{quality_marks(p)}",
            _difference_cell(p, places),
        )
        for p in points
    ]


def _joules(point: FrontPoint) -> str:
    return "" if point.joules_per_image is None else f"{_tilde(point)}{format_number(point.joules_per_image)}"


def _tilde(point: FrontPoint) -> str:
    """Return the mark of what was predicted from calls with other steps."""
    return "~" if point.is_predicted else ""


def _difference_cell(p: FrontPoint, places: int) -> str:
    if p.is_baseline:
        return "reference"
    shift = p.difference - p.quality
    return format_difference(p.difference, p.quality_low + shift, p.quality_high + shift, places) + difference_marks(p)


@dataclass(frozen=True)
class CompactFront:
    """A non-empty front in at most `rows` rows: the baseline and the chosen point always, then the cheapest."""

    points: tuple[FrontPoint, ...]
    rows: int
    metric: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs, has_score = glyphs_for(options.ascii_only), options.max_width >= SCORE_FROM_WIDTH
        table, shown = make_bare_table(QUIET), self._shown()
        for heading in ("trial", "US$/1000", "speed-up", *([self.metric] if has_score else []), "difference"):
            add_number_column(table, heading)
        table.add_column("configuration", overflow="crop")
        for point, (_, _, cost, *_, speed, score, difference) in zip(shown, _cells(shown), strict=True):
            number = _marked_number(point, shown, glyphs, mark(point, glyphs))
            cells = _texts(number, cost, speed, *([score] if has_score else []), difference.split()[0])
            table.add_row(*cells, OneLine(_label(point)), style=_style(point))
        yield table
        if len(self.points) > len(shown):
            yield Text(f"and {len(self.points) - len(shown)} more", style=QUIET)

    def _shown(self) -> list[FrontPoint]:
        points = in_order(self.points)
        kept = sorted(points, key=lambda point: not is_marked(point))[: max(1, self.rows)]
        return in_order(kept)

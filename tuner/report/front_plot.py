"""The front as a plot in the terminal: cost against quality, with intervals.

Drawn here because no library draws it: plotille 6.0.5 has neither a log axis nor intervals and draws with braille
characters only; plotext 5.3.2 writes a label over its mark, puts log ticks at unround values, frames every plot with
characters outside ASCII and keeps one figure for the whole process; plotext 6.1.0 also loads a compiled library.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from tuner.numbers import decimals, format_fixed, format_number
from tuner.report.console import BASELINE, CHOSEN, QUIET, Glyphs, glyphs_for
from tuner.report.formatting import one_line
from tuner.report.points import FrontPoint, in_order, is_marked, mark


def front_plot(
    points: Sequence[FrontPoint], width: int | None = None, height: int = 14, metric: str = "CLIP score"
) -> RenderableType:
    """Plot cost against quality: each point with its interval, the front as a staircase, baseline and chosen marked."""
    if not points:
        return Text("")
    return _Plot(tuple(in_order(points)), width, max(5, height), one_line(metric))


@dataclass(frozen=True)
class _Scale:
    """An axis of `cells` characters from `low` to `high`."""

    low: float
    high: float
    cells: int
    is_log: bool = False

    def cell(self, value: float) -> int:
        low, high, at = self.low, self.high, value
        if self.is_log:
            low, high, at = math.log(low), math.log(high), math.log(value)
        return min(self.cells - 1, max(0, round((at - low) / (high - low) * (self.cells - 1))))

    def ticks(self, count: int) -> list[float]:
        if self.is_log:
            ticks = _log_ticks(self.low, self.high)
            if len(ticks) >= 3:
                return ticks
        return _even_ticks(self.low, self.high, count)


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [value for power in powers for digit in (1, 2, 5) if low <= (value := digit * 10.0**power) <= high]


def _even_ticks(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / max(1, count)
    power: float = 10.0 ** math.floor(math.log10(rough))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= 0.75 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _cost_scale(points: Sequence[FrontPoint], cells: int) -> _Scale:
    low = min(point.cost_usd_per_1000_images for point in points)
    high = max(point.cost_usd_per_1000_images for point in points)
    if low > 0 and high / low > 6:
        return _Scale(low / 1.15, high * 1.15, cells, is_log=True)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return _Scale(low - margin, high + margin, cells)


def _quality_scale(points: Sequence[FrontPoint], cells: int) -> _Scale:
    low = min(min(point.quality, point.quality_low) for point in points)
    high = max(max(point.quality, point.quality_high) for point in points)
    margin = (high - low) * 0.04 or abs(high) * 0.01 or 1.0
    return _Scale(low - margin, high + margin, cells)


class _Canvas:
    """A grid of characters with their styles, row 0 at the top."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.cells = [[(" ", "")] * width for _ in range(height)]

    def put(self, column: int, row: int, text: str, style: str) -> None:
        for offset, character in enumerate(text):
            if 0 <= column + offset < self.width and 0 <= row < self.height:
                self.cells[row][column + offset] = (character, style)

    def is_free(self, column: int, row: int, length: int) -> bool:
        inside = column >= 0 and column + length <= self.width
        return inside and all(not cell[1].startswith("mark ") for cell in self.cells[row][column : column + length])

    def line(self, row: int) -> Text:
        text = Text()
        for character, style in self.cells[row]:
            text.append(character, style=style.removeprefix("mark "))
        text.rstrip()
        return text


@dataclass(frozen=True)
class _Plot:
    points: tuple[FrontPoint, ...]
    width: int | None
    height: int
    metric: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = glyphs_for(options.ascii_only)
        y = _quality_scale(self.points, self.height)
        y_ticks = y.ticks(max(2, self.height // 3))
        y_places = decimals(y_ticks[1] - y_ticks[0] if len(y_ticks) > 1 else y.high - y.low, 1)
        margin = max(len(format_fixed(tick, y_places)) for tick in y_ticks) if y_ticks else 1
        x = _cost_scale(self.points, max(20, min(self.width or 100, options.max_width) - margin - 3))
        canvas = _Canvas(x.cells, y.cells)
        _draw(canvas, self.points, x, y, glyphs)
        names = {y.cells - 1 - y.cell(tick): format_fixed(tick, y_places) for tick in y_ticks}
        yield Text(f"{self.metric} against US$ per 1000 images{' (log scale)' if x.is_log else ''}", style=BASELINE)
        for row in range(canvas.height):
            axis = glyphs.y_tick if row in names else glyphs.axis
            yield Text(f"{names.get(row, ''):>{margin}} {axis}", style=QUIET).append_text(canvas.line(row))
        yield from _x_axis(x, margin, glyphs)
        yield Text(_legend(self.points, glyphs), style=QUIET)


def _draw(canvas: _Canvas, points: Sequence[FrontPoint], x: _Scale, y: _Scale, glyphs: Glyphs) -> None:
    """Draw the baseline's level, the staircase, intervals, marks and numbers, each over those before it."""

    def row(quality: float) -> int:
        return canvas.height - 1 - y.cell(quality)

    for point in points:
        if point.is_baseline:
            canvas.put(0, row(point.quality), glyphs.level * canvas.width, QUIET)
    stairs = [(x.cell(p.cost_usd_per_1000_images), row(p.quality)) for p in _staircase(points)]
    _draw_stairs(canvas, stairs, glyphs)
    columns = {point.number: x.cell(point.cost_usd_per_1000_images) for point in points}
    for point in points:
        if not point.is_baseline:
            for at in range(row(point.quality_high), row(point.quality_low) + 1):
                canvas.put(columns[point.number], at, glyphs.interval, QUIET)
    for point in sorted(points, key=lambda p: (p.is_chosen, p.is_baseline)):
        canvas.put(columns[point.number], row(point.quality), mark(point, glyphs), f"mark {_style(point)}")
    for point in points:
        _put_number(canvas, columns[point.number], row(point.quality), str(point.number))


def _style(point: FrontPoint) -> str:
    if point.is_chosen:
        return CHOSEN
    return "bold yellow" if point.is_baseline else "cyan"


def _staircase(points: Iterable[FrontPoint]) -> list[FrontPoint]:
    """Return the points that are better than all cheaper ones, cheapest first."""
    kept: list[FrontPoint] = []
    for point in sorted(points, key=lambda p: (p.cost_usd_per_1000_images, -p.quality)):
        if not kept or point.quality > kept[-1].quality:
            kept.append(point)
    return kept


def _draw_stairs(canvas: _Canvas, stairs: Sequence[tuple[int, int]], glyphs: Glyphs) -> None:
    ends = [*stairs[1:], (canvas.width, stairs[-1][1])] if stairs else []
    for (column, row), (next_column, next_row) in zip(stairs, ends, strict=True):
        canvas.put(column, row, glyphs.horizontal * (next_column - column), "blue")
        if next_row != row:
            canvas.put(next_column, row, glyphs.corner, "blue")
            for at in range(next_row + 1, row):
                canvas.put(next_column, at, glyphs.vertical, "blue")


def _put_number(canvas: _Canvas, column: int, row: int, number: str) -> None:
    """Write a trial's number beside its mark, where it covers no other mark; leave it out where there is no room."""
    for start, at in ((column + 1, row - 1), (column + 1, row + 1), (column - len(number), row - 1)):
        if 0 <= at < canvas.height and canvas.is_free(start, at, len(number)):
            canvas.put(start, at, number, "mark ")
            return


def _x_axis(x: _Scale, margin: int, glyphs: Glyphs) -> Iterator[Text]:
    axis, names, end = list(glyphs.horizontal * x.cells), [" "] * (x.cells + margin + 2), 0
    ticks = x.ticks(max(2, x.cells // 14))
    places = None if x.is_log or len(ticks) < 2 else decimals(ticks[1] - ticks[0], 1)
    for tick in ticks:
        name = format_number(tick, 1) if places is None else format_fixed(tick, places)
        start = min(margin + 2 + x.cell(tick) - len(name) // 2, len(names) - len(name))
        if start >= end:
            axis[x.cell(tick)] = glyphs.x_tick
            names[start : start + len(name)] = name
            end = start + len(name) + 2
    yield Text(" " * (margin + 1) + glyphs.origin + "".join(axis), style=QUIET)
    yield Text("".join(names).rstrip(), style=QUIET)


def _legend(points: Sequence[FrontPoint], glyphs: Glyphs) -> str:
    parts = [f"{glyphs.baseline} baseline"] if any(p.is_baseline and not p.is_chosen for p in points) else []
    chosen_is_baseline = any(p.is_baseline and p.is_chosen for p in points)
    if any(p.is_chosen for p in points):
        parts.append(f"{glyphs.chosen} chosen" + (" (the baseline)" if chosen_is_baseline else ""))
    if any(not is_marked(p) for p in points):
        parts.append(f"{glyphs.other} front")
    return "   ".join([*parts, f"{glyphs.interval} 95 % interval", "numbers: trials"])

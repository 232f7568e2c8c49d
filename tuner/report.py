"""What a person sees at the end: the front as a table, as a drawing, and why the other trials are not on it.

Pure functions from records to rich renderables. Printed through `make_console` they have colour on a terminal, none
elsewhere, and only ASCII where the stream's encoding knows no more.

The drawing is made here and not by plotext: since version 6 that loads a C++ library through ctypes (compiled at
installation where no wheel fits), keeps one figure for the whole process, and ships no types.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO, TypeVar

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tuner.record import Finding, Outcome, Record, Value

GAP = 2
"""Columns between two columns of a table."""

REASONS = 8
"""How many reasons of a kind the summary lists."""

CHOSEN = "bold green"
BASELINE = "bold"
QUIET = "dim"


class FrontPoint(Record):
    """One row of the front. The interval is the 95 % one of the paired difference, laid around `quality`."""

    number: int
    label: str
    latency_s: float
    images_per_s: float
    cost_usd_per_1000_images: float
    quality: float
    quality_low: float
    quality_high: float
    difference: float
    speed_up: float
    is_baseline: bool = False
    is_chosen: bool = False


@dataclass(frozen=True)
class Glyphs:
    """The characters of the marks and of the drawing."""

    baseline: str
    chosen: str
    other: str
    rule: str
    horizontal: str
    vertical: str
    corner: str
    interval: str
    level: str
    axis: str
    origin: str
    x_tick: str
    y_tick: str
    spinner: str
    dot: str
    plus_minus: str

    def mark(self, point: FrontPoint) -> str:
        """The mark of a point; the chosen one's where the baseline itself is chosen."""
        if point.is_chosen:
            return self.chosen
        return self.baseline if point.is_baseline else self.other


UNICODE = Glyphs("◆", "★", "●", "─", "─", "│", "┘", "┊", "·", "│", "└", "┬", "┤", "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "·", "±")
ASCII = Glyphs("B", "*", "o", "-", "-", "|", "+", ":", ".", "|", "+", "+", "+", "|/-\\", "-", "+-")


def glyphs_for(ascii_only: bool) -> Glyphs:
    """The characters that a stream can take."""
    return ASCII if ascii_only else UNICODE


def make_console(stream: TextIO, width: int | None = None) -> Console:
    """A console that takes text literally and never fails on a character that the stream cannot encode."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


# ---- words and numbers ----------------------------------------------------------------------------------------------


def one_line(text: str) -> str:
    """The text without line breaks, colours and control characters: what a worker says may hold anything."""
    plain = re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?)", "", text)
    return " ".join("".join(c if c.isprintable() else " " for c in plain).split())


def first_line(text: str) -> str:
    """The first line that says something."""
    return next((cleaned for line in text.splitlines() if (cleaned := one_line(line))), "")


def shorten(text: str, width: int) -> str:
    """The text, cut with three dots where it is longer than `width`."""
    return text if len(text) <= width else text[: max(0, width - 3)] + "..."[: max(0, width)]


def wrapped(label: str, text: str, width: int, style: str = "", indent: int = 0) -> Iterator[Text]:
    """A paragraph beside its label, wrapped to the width and never cut."""
    head = " " * indent + label
    lines = textwrap.wrap(text, max(20, width - len(head)), break_on_hyphens=False, break_long_words=False)
    for number, line in enumerate(lines):
        start = head if number == 0 else " " * len(head)
        yield Text.assemble((start, QUIET), (line, style))


def section(
    title: str, rows: Sequence[tuple[str, str]], width: int, is_quiet: Callable[[str, str], bool] = lambda *_: False
) -> Iterator[Text]:
    """A title and below it a label and a text a row, `is_quiet` rows dimmed; nothing without rows."""
    if not rows:
        return
    yield Text(title, style=BASELINE)
    label = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        yield from wrapped(f"{name:<{label}}", text, width, QUIET if is_quiet(name, text) else "", indent=2)
    yield Text("")


def value_text(value: Value) -> str:
    """A knob's value as a person writes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else one_line(str(value))


def changes(values: Mapping[str, Value], baseline: Mapping[str, Value]) -> dict[str, Value]:
    """What differs from the baseline."""
    return {name: value for name, value in values.items() if name not in baseline or baseline[name] != value}


def label(values: Mapping[str, Value]) -> str:
    """A configuration in one line; an empty one is the baseline."""
    return " ".join(f"{name}={value_text(value)}" for name, value in values.items()) or "baseline"


def decimals(value: float, digits: int) -> int:
    """How many decimals show `digits` significant digits of a value."""
    if value == 0 or not math.isfinite(value):
        return 0
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def number_text(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, never in powers of ten."""
    return f"{value:.{decimals(value, digits)}f}"


def latency_text(value_s: float) -> str:
    """A latency in the unit that suits it."""
    return f"{number_text(value_s)} s" if value_s >= 1 else f"{number_text(value_s * 1000)} ms"


def latency_with_error(value_s: float, half_s: float, plus_minus: str) -> str:
    """A latency and the half-width of its interval, both to two digits of the latter."""
    scale, unit = (1.0, "s") if value_s >= 1 else (1000.0, "ms")
    places = min(decimals(half_s * scale, 2), 3)
    return f"{value_s * scale:.{places}f} {plus_minus} {half_s * scale:.{places}f} {unit}"


def difference_text(difference: float, low: float, high: float, places: int | None = None) -> str:
    """A paired difference with its interval."""
    if places is None:
        places = difference_places([(low, high)])
    return f"{difference:+.{places}f} [{low:+.{places}f}, {high:+.{places}f}]"


def difference_places(intervals: Iterable[tuple[float, float]]) -> int:
    """Decimals that show two digits of the narrowest interval's half-width."""
    halves = [(high - low) / 2 for low, high in intervals if high > low]
    return min(max(decimals(min(halves), 2), 2), 5) if halves else 4


def clock(value_s: float) -> str:
    """A duration as a clock shows it."""
    minutes, rest = divmod(max(0, round(value_s)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def times(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


# ---- the front as a table -------------------------------------------------------------------------------------------


def front_point(
    outcome: Outcome,
    baseline: Outcome,
    changed: Mapping[str, Value],
    *,
    is_chosen: bool = False,
) -> FrontPoint:
    """The row of a measured and scored trial, named by what it `changed`; raises ValueError for another."""
    timing, quality, cost = outcome.timing, outcome.quality, outcome.cost_usd_per_1000_images
    if timing is None or quality is None or cost is None or baseline.timing is None:
        raise ValueError(f"trial {outcome.number} or its baseline is not measured")
    difference = quality.difference
    return FrontPoint(
        number=outcome.number,
        label=label(changed),
        latency_s=timing.latency_s.value,
        images_per_s=timing.images_per_s,
        cost_usd_per_1000_images=cost,
        quality=quality.mean,
        quality_low=quality.mean + difference.low - difference.value,
        quality_high=quality.mean + difference.high - difference.value,
        difference=difference.value,
        speed_up=timing.images_per_s / baseline.timing.images_per_s,
        is_baseline=outcome.number == baseline.number,
        is_chosen=is_chosen,
    )


def in_order(points: Iterable[FrontPoint]) -> list[FrontPoint]:
    """The baseline, then the others from the cheapest on."""
    return sorted(points, key=lambda point: (not point.is_baseline, point.cost_usd_per_1000_images, point.number))


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
        yield Text(f"{glyphs.chosen} chosen   {glyphs.baseline} baseline, the untouched pipeline", style=QUIET)


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
    return glyphs.mark(point) if _is_marked(point) else ""


def _is_marked(point: FrontPoint) -> bool:
    return point.is_chosen or point.is_baseline


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
            latency_text(p.latency_s),
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
    return difference_text(p.difference, p.quality_low + shift, p.quality_high + shift, places)


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
                f"{glyphs.mark(p)} {p.number:>{digits}}",
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
        kept = sorted(points, key=lambda point: not _is_marked(point))[: max(1, self.rows)]
        return in_order(kept)


@dataclass(frozen=True)
class OneLine:
    """Text cut to the width that it is given; rich's own ellipsis is not ASCII."""

    text: str
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(shorten(self.text, options.max_width), style=self.style, no_wrap=True, overflow="crop")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(8, len(self.text)), len(self.text)).with_maximum(options.max_width)


# ---- the front as a drawing -----------------------------------------------------------------------------------------


def drawing(
    points: Sequence[FrontPoint], width: int | None = None, height: int = 14, metric: str = "CLIP score"
) -> RenderableType:
    """Cost against quality with each point's interval, the staircase of the front, baseline and chosen marked."""
    if not points:
        return Text("")
    return _Drawing(tuple(in_order(points)), width, max(5, height), one_line(metric))


@dataclass(frozen=True)
class _Scale:
    """Where a value lies on an axis of so many cells."""

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
            found = _log_ticks(self.low, self.high)
            if len(found) >= 3:
                return found
        return _even_ticks(self.low, self.high, count)


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [value for power in powers for digit in (1, 2, 5) if low <= (value := digit * 10.0**power) <= high]


def _even_ticks(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / max(1, count)
    power: float = 10.0 ** math.floor(math.log10(rough))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * 0.999)
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
    """Cells to draw on, row 0 at the top."""

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
class _Drawing:
    points: tuple[FrontPoint, ...]
    width: int | None
    height: int
    metric: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = glyphs_for(options.ascii_only)
        y = _quality_scale(self.points, self.height)
        y_ticks = y.ticks(max(2, self.height // 3))
        y_places = decimals(y_ticks[1] - y_ticks[0], 1) if len(y_ticks) > 1 else 4
        margin = max(len(f"{tick:.{y_places}f}") for tick in y_ticks) if y_ticks else 1
        x = _cost_scale(self.points, max(20, min(self.width or 100, options.max_width) - margin - 3))
        canvas = _Canvas(x.cells, y.cells)
        _draw(canvas, self.points, x, y, glyphs)
        names = {y.cells - 1 - y.cell(tick): f"{tick:.{y_places}f}" for tick in y_ticks}
        yield Text(f"{self.metric} against US$ per 1000 images{' (log scale)' if x.is_log else ''}", style=BASELINE)
        for row in range(canvas.height):
            axis = glyphs.y_tick if row in names else glyphs.axis
            yield Text(f"{names.get(row, ''):>{margin}} {axis}", style=QUIET).append_text(canvas.line(row))
        yield from _x_axis(x, margin, glyphs)
        yield Text(_legend(self.points, glyphs), style=QUIET)


def _draw(canvas: _Canvas, points: Sequence[FrontPoint], x: _Scale, y: _Scale, glyphs: Glyphs) -> None:
    def row(quality: float) -> int:
        return canvas.height - 1 - y.cell(quality)

    for point in points:
        if point.is_baseline:
            canvas.put(0, row(point.quality), glyphs.level * canvas.width, QUIET)
    stairs = [(x.cell(p.cost_usd_per_1000_images), row(p.quality)) for p in _staircase(points)]
    _draw_stairs(canvas, stairs, glyphs)
    for point in points:
        column = x.cell(point.cost_usd_per_1000_images)
        if not point.is_baseline:
            for at in range(row(point.quality_high), row(point.quality_low) + 1):
                canvas.put(column, at, glyphs.interval, QUIET)
    for point in sorted(points, key=lambda p: (p.is_chosen, p.is_baseline)):
        style = CHOSEN if point.is_chosen else "bold yellow" if point.is_baseline else "cyan"
        canvas.put(x.cell(point.cost_usd_per_1000_images), row(point.quality), glyphs.mark(point), f"mark {style}")
    for point in points:
        _put_number(canvas, x.cell(point.cost_usd_per_1000_images), row(point.quality), str(point.number))


def _staircase(points: Iterable[FrontPoint]) -> list[FrontPoint]:
    """The points that no cheaper one equals, from the cheapest on."""
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
    for start, at in ((column + 1, row - 1), (column + 1, row + 1), (column - len(number), row - 1)):
        if 0 <= at < canvas.height and canvas.is_free(start, at, len(number)):
            canvas.put(start, at, number, "mark ")
            return


def _x_axis(x: _Scale, margin: int, glyphs: Glyphs) -> Iterator[Text]:
    axis, names, end = list(glyphs.horizontal * x.cells), [" "] * (x.cells + margin + 2), 0
    ticks = x.ticks(max(2, x.cells // 14))
    places = None if x.is_log or len(ticks) < 2 else decimals(ticks[1] - ticks[0], 1)
    for tick in ticks:
        name = number_text(tick, 1) if places is None else f"{tick:.{places}f}"
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
    if any(not _is_marked(p) for p in points):
        parts.append(f"{glyphs.other} front")
    return "   ".join([*parts, f"{glyphs.interval} 95 % interval", "numbers: trials"])


# ---- why the others are not on it -----------------------------------------------------------------------------------


def summary(outcomes: Sequence[Outcome], refused: Mapping[str, int] | None = None) -> RenderableType:
    """How many trials were measured, rejected, failed and refused, and why; and which checks could not be made."""
    refused = refused or {}
    heading = Text(_heading(outcomes, sum(refused.values())), style=BASELINE)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold", ratio=1)
    reasons = (
        ("rejected", "yellow", _rejections(outcomes)),
        ("failed", "red", _failures(outcomes)),
        ("refused", QUIET, [(count, one_line(reason)) for reason, count in refused.items()]),
        ("not checked", QUIET, _skipped(outcomes)),
    )
    for title, style, rows in reasons:
        for index, (count, reason) in enumerate(_most_frequent(rows)):
            grid.add_row(Text(title if index == 0 else "", style=style), Text(str(count)), Text(reason))
    return Group(heading, grid) if grid.row_count else heading


def _most_frequent(rows: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """The reasons that are met most, and how many are left out."""
    rows = sorted(rows, key=lambda row: -row[0])
    rest = rows[REASONS:]
    return rows[:REASONS] + ([(sum(count for count, _ in rest), "for other reasons")] if rest else [])


def _heading(outcomes: Sequence[Outcome], refused: int) -> str:
    counts = [f"{sum(o.status == status for o in outcomes)} {status}" for status in ("measured", "rejected", "failed")]
    builds = len({outcome.build_key for outcome in outcomes})
    text = f"{times(len(outcomes), 'trial')} from {times(builds, 'build')}: {', '.join(counts)}"
    return text + (f"; {times(refused, 'candidate')} refused before costing anything" if refused else "")


def undeclared(outcome: Outcome) -> list[Finding]:
    """What the gate holds against a trial."""
    verdict = outcome.build.verdict if outcome.build else None
    return verdict.undeclared() if verdict else []


def _rejections(outcomes: Sequence[Outcome]) -> list[tuple[int, str]]:
    rejected = [outcome for outcome in outcomes if outcome.status == "rejected"]
    keyed = [((str(f.kind), one_line(f.source)), o.number) for o in rejected for f in undeclared(o)]
    keyed += [(("no finding recorded", ""), o.number) for o in rejected if not undeclared(o)]
    return [
        (len(numbers), f"{kind}{f' at {source}' if source else ''} ({_trials(numbers)})")
        for (kind, source), numbers in _grouped(keyed).items()
    ]


def _failures(outcomes: Sequence[Outcome]) -> list[tuple[int, str]]:
    failures = [(o.failure, o.number) for o in outcomes if o.status == "failed" and o.failure]
    keyed = [((f.kind, f.stage, first_line(f.message)), number) for f, number in failures]
    return [
        (len(numbers), f"{kind} in {stage}: {shorten(message, 160)} ({_trials(numbers)})")
        for (kind, stage, message), numbers in _grouped(keyed).items()
    ]


def _skipped(outcomes: Sequence[Outcome]) -> list[tuple[int, str]]:
    verdicts = [outcome.build.verdict for outcome in outcomes if outcome.build and outcome.build.verdict]
    keyed = [(one_line(reason), 0) for verdict in verdicts for reason in verdict.skipped]
    return [(len(numbers), reason) for reason, numbers in _grouped(keyed).items()]


K = TypeVar("K", bound=Hashable)


def _grouped(items: Iterable[tuple[K, int]]) -> dict[K, list[int]]:
    groups: defaultdict[K, list[int]] = defaultdict(list)
    for key, number in items:
        groups[key].append(number)
    return groups


def _trials(numbers: Sequence[int]) -> str:
    distinct = sorted(set(numbers))
    text = ", ".join(map(str, distinct[:6])) + (", ..." if len(distinct) > 6 else "")
    return f"{'trial' if len(distinct) == 1 else 'trials'} {text}"

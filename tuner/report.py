"""What all that a person sees is made of: the console, words, numbers, points of the front, why trials are not on it.

Pure functions from records to rich renderables. Printed through `make_console` they have colour on a terminal, none
elsewhere, and only ASCII where the stream's encoding knows no more.
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

from tuner.economics import meets
from tuner.record import Finding, Outcome, Record, Value

GAP = 2
"""Columns between two columns of a table."""

REASONS = 8
"""How many reasons of a kind the summary lists."""

CHOSEN = "bold green"
BASELINE = "bold"
QUIET = "dim"


class FrontPoint(Record):
    """One row of the front. The interval is the 95 % one of the paired difference, laid around `quality`.

    A predicted latency was not measured itself; only the baseline may miss the latency target and stand there.
    """

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
    is_predicted: bool = False
    misses_target: bool = False


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


def columns_line(name: str, cells: Sequence[str], first: int, widths: Sequence[int]) -> str:
    """A row of a table: its name in `first` characters, its cells to the right of their columns."""
    texts = [cell.rjust(width) for cell, width in zip(cells, widths, strict=False)]
    return (" " * GAP).join((name.ljust(first), *texts)).rstrip()


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


def amount(value: float) -> str:
    """A large number in three digits, a small one as it is."""
    for least, power, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if value >= least:
            return f"{number_text(value / power)}{unit}"
    return number_text(value)


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


def others_text(processes: int | None, memory_bytes: int | None) -> str:
    """Who else uses the GPU and how much of its memory, as far as that is known; empty for nobody."""
    if not processes and not memory_bytes:
        return ""
    who = times(processes, "other process", "other processes") if processes else "somebody else"
    return f"{who} with {number_text(memory_bytes / 1e9)} GB" if memory_bytes else who


# ---- points of the front --------------------------------------------------------------------------------------------


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
        is_predicted=timing.predicted_from is not None,
        misses_target=not meets(timing.within_target),
    )


def in_order(points: Iterable[FrontPoint]) -> list[FrontPoint]:
    """The baseline, then the others from the cheapest on."""
    return sorted(points, key=lambda point: (not point.is_baseline, point.cost_usd_per_1000_images, point.number))


def is_marked(point: FrontPoint) -> bool:
    return point.is_chosen or point.is_baseline


@dataclass(frozen=True)
class OneLine:
    """Text cut to the width that it is given; rich's own ellipsis is not ASCII."""

    text: str
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(shorten(self.text, options.max_width), style=self.style, no_wrap=True, overflow="crop")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(8, len(self.text)), len(self.text)).with_maximum(options.max_width)


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

"""Render a cost report for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from tuner.commands.cost.report import CostReport, CostRow
from tuner.numbers import format_large, format_latency, format_number
from tuner.report.console import BASELINE, CHOSEN, QUIET, Glyphs, glyphs_for
from tuner.report.formatting import label, one_line, pluralize, wrap_text
from tuner.report.tables import add_number_column, draw_with_details, make_table, width_of
from tuner.result.economics import CARDS_GB, HEADROOM, Economics
from tuner.result.prices import Price, is_nominal
from tuner.timing.intervals import supports_percentile

INDENT = 4
HEADINGS = (
    ("", "trial"),
    ("US$/1000", "images"),
    ("US$/million", "images"),
    ("images", "/hour"),
    ("images", "/1000 US$"),
    ("latency", "p50"),
    ("latency", "p95"),
    ("", "samples"),
)
UNKNOWN = "-"


@dataclass(frozen=True)
class CostTable:
    """A cost report as text: a row of numbers per configuration, its settings and further numbers below it.

    Columns that do not fit the width move below their row.
    """

    report: CostReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        report, width, glyphs = self.report, options.max_width, glyphs_for(options.ascii_only)
        cells = _cells(report, glyphs)
        tables = [_table(report, cells, count, options) for count in range(len(HEADINGS), 0, -1)]
        table = next((table for table in tables if width_of(table, console, options) <= width), tables[-1])
        shown = len(table.columns)
        below = [
            _below(row, [f"{_heading(i)} {text}" for i, text in enumerate(texts[shown:], shown)], report, width)
            for row, texts in zip(report.rows, cells, strict=True)
        ]
        yield from _introduction(report, width)
        yield from draw_with_details(table, below, console, options)
        yield from _notes(report, glyphs, width)


# ---- the columns ----------------------------------------------------------------------------------------------------


def _cells(report: CostReport, glyphs: Glyphs) -> list[tuple[str, ...]]:
    digits = max(len(str(row.trial)) for row in report.rows)
    marks = [" " if report.is_comparison else _mark(row, glyphs) for row in report.rows]
    return [
        (f"{mark} {row.trial:>{digits}}", *_numbers(row.economics))
        for mark, row in zip(marks, report.rows, strict=True)
    ]


def _table(report: CostReport, cells: Sequence[Sequence[str]], count: int, options: ConsoleOptions) -> Table:
    """Make the table of the first `count` columns."""
    table = make_table(options, BASELINE)
    for heading in HEADINGS[:count]:
        add_number_column(table, "\n".join(heading))
    for row, texts in zip(report.rows, cells, strict=True):
        table.add_row(*map(Text, texts[:count]), style=_style(row, report.is_comparison))
    return table


def _heading(column: int) -> str:
    """Return the heading of a column in one line."""
    return " ".join(HEADINGS[column]).strip().replace(" /", "/")


def _mark(row: CostRow, glyphs: Glyphs) -> str:
    return glyphs.chosen if row.is_chosen else glyphs.baseline if row.is_baseline else " "


def _style(row: CostRow, is_comparison: bool) -> str:
    if row.is_chosen and not is_comparison:
        return CHOSEN
    return BASELINE if row.is_baseline else ""


def _numbers(costs: Economics) -> tuple[str, ...]:
    return (
        format_number(costs.usd_per_1000_images),
        format_large(costs.usd_per_million_images),
        format_large(costs.images_per_hour),
        format_large(costs.images_per_1000_usd),
        _latency(costs.latency_p50_s),
        _latency(costs.latency_p95_s),
        str(costs.latency_samples),
    )


def _latency(value_s: float | None) -> str:
    return UNKNOWN if value_s is None else format_latency(value_s)


# ---- above and below ------------------------------------------------------------------------------------------------


def _introduction(report: CostReport, width: int) -> Iterator[Text]:
    name = f"{one_line(report.model)} ({one_line(report.pipeline_class)})"
    first = report.rows[0]
    if report.is_comparison:
        yield from wrap_text("", f"{name}: the chosen configuration of each study, cheapest first", width, BASELINE)
    else:
        yield from wrap_text("", f"{name} on {one_line(first.device_name)}", width, BASELINE)
        yield from wrap_text("", _price_text(first.price), width)
    yield Text("")


def _price_text(price: Price) -> str:
    return f"US$ {price.usd_per_hour:.2f} per hour ({one_line(price.source)})"


def _below(row: CostRow, hidden: Sequence[str], report: CostReport, width: int) -> Iterator[Text]:
    """Yield what has no column: the machine in a comparison, `hidden` columns, further numbers and the settings."""
    if report.is_comparison:
        machine = f"{one_line(row.device_name)}, {_price_text(row.price)}"
        yield from wrap_text("", machine, width, BASELINE, INDENT)
        yield from wrap_text("", one_line(row.file), width, QUIET, INDENT)
    yield from wrap_text("", "; ".join((*hidden, *_details(row))), width, "", INDENT)
    settings = label(row.changed) + (" (chosen)" if row.is_chosen and not report.is_comparison else "")
    yield from wrap_text("", settings, width, QUIET, INDENT)


def _details(row: CostRow) -> Iterator[str]:
    costs = row.economics
    if row.predicted_from:
        yield f"latency predicted from {', '.join(map(str, row.predicted_from))} steps, not measured"
    if row.is_doubtful:
        yield "gain in doubt: measured again beside the untouched pipeline it was not shown"
    if row.may_lose_quality:
        yield "may lose more quality than tolerated, so that it is not chosen"
    if costs.compile_s:
        yield f"compiling adds {format_latency(costs.compile_s)} to the first call{_break_even_text(row)}"
    if costs.smallest_card_gb is not None:
        yield f"fits a {costs.smallest_card_gb} GB card"
    if costs.joules_per_image is not None and costs.images_per_s_per_watt is not None:
        efficiency = f"{format_number(costs.images_per_s_per_watt)} images/s/W"
        yield f"{format_number(costs.joules_per_image)} J/image, {efficiency}"


def _break_even_text(row: CostRow) -> str:
    images = row.economics.break_even_images
    if images is None:
        return "" if row.is_baseline else ", which it never saves"
    return ", no more than the baseline's" if images == 0 else f", saved after {pluralize(images, 'image')}"


def _notes(report: CostReport, glyphs: Glyphs, width: int) -> Iterator[Text]:
    """Yield the notes that the table needs."""
    costs = [row.economics for row in report.rows]
    notes = []
    if not report.is_comparison:
        notes.append(f"{glyphs.chosen} chosen   {glyphs.baseline} baseline (the untouched pipeline)")
    if any(each.latency_p95_s is None for each in costs):
        needed = next(count for count in range(1, 1000) if supports_percentile(count, 0.95))
        notes.append(
            f"samples: of all processes; p95: of one process, shown only if that timed at least {needed} calls"
        )
    if any(each.compile_s for each in costs):
        notes.append("compiling: without what an earlier trial had already compiled")
    if any(each.smallest_card_gb is not None for each in costs):
        notes.append(f"card: the smallest of {', '.join(map(str, CARDS_GB))} GB that leaves {HEADROOM:.0%} free")
    for note in notes:
        yield from wrap_text("", note, width, QUIET)
    if report.is_comparison and any(is_nominal(row.price) for row in report.rows):
        yield from wrap_text("", "Nominal prices cannot be compared with others and are listed last.", width, "yellow")

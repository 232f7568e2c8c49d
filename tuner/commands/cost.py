"""`tune cost`: what the images of tuned pipelines cost, under other prices and on other machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from tuner.errors import BadInput
from tuner.records.codec import Record, Values
from tuner.report.console import BASELINE, CHOSEN, QUIET, Glyphs, glyphs_for
from tuner.report.formatting import (
    format_large,
    format_latency,
    format_number,
    label,
    one_line,
    pluralize,
    wrap_text,  # fmt: skip
)
from tuner.result.config import BestConfig, MeasuredPoint, measurement, read_config
from tuner.result.economics import CARDS_GB, HEADROOM, Economics, economics
from tuner.result.prices import Price, is_nominal, price_for
from tuner.timing.intervals import supports_percentile

GAP = 2
INDENT = 4
HEADINGS = (
    ("US$/1000", "images"),
    ("US$/million", "images"),
    ("images", "/hour"),
    ("images", "/1000 US$"),
    ("latency", "p50"),
    ("latency", "p95"),
    ("", "samples"),
)
UNKNOWN = "-"


class CostRow(Record):
    """One configuration of one study, at one price."""

    file: str
    device_name: str
    price: Price
    trial: int
    is_baseline: bool
    is_chosen: bool
    changed: Values
    economics: Economics
    predicted_from: tuple[int, ...] | None = None
    """Step counts; None where the latency was measured."""


class CostReport(Record):
    """The front of one study, the baseline first; or the chosen points of several, the cheapest first."""

    pipeline_class: str
    model: str
    is_comparison: bool
    rows: tuple[CostRow, ...]


class Study(NamedTuple):
    """A best_config.json and where it was."""

    file: str
    best: BestConfig


def reckon(files: Sequence[Path], usd_per_hour: float | None, provider: str | None) -> CostReport:
    """What one study's front costs, or what the chosen points of several studies of the same thing cost.

    Raises BadInput where a file is none, or is of another model or workload than the first.
    """
    studies = [_study(path) for path in files]
    for other in studies[1:]:
        _refuse_another(studies[0], other)
    first, is_comparison = studies[0].best, len(studies) > 1
    prices = [_price(study.best, usd_per_hour, provider, is_comparison) for study in studies]
    if is_comparison:
        rows = [_row(study, study.best.chosen, price) for study, price in zip(studies, prices, strict=True)]
        rows.sort(key=lambda row: (is_nominal(row.price), row.economics.usd_per_1000_images, row.file))
    else:
        rows = [_row(studies[0], point, prices[0]) for point in _front(first)]
    return CostReport(
        pipeline_class=first.model.pipeline_class,
        model=_name(first.model.source),
        is_comparison=is_comparison,
        rows=tuple(rows),
    )


def _price(best: BestConfig, usd_per_hour: float | None, provider: str | None, is_comparison: bool) -> Price:
    """What was asked for; else the price of the study, or among several that of the table, since only those compare.

    Where that one is nominal, the other of the two.
    """
    listed = price_for(best.environment.device_name, usd_per_hour, provider)
    if usd_per_hour is not None or provider is not None:
        return listed
    preferred, other = (listed, best.price) if is_comparison else (best.price, listed)
    return other if is_nominal(preferred) else preferred


def _study(path: Path) -> Study:
    file = path / "best_config.json" if path.is_dir() else path
    study = Study(str(file), read_config(file))
    for field, point in (("baseline", study.best.baseline), ("chosen", study.best.chosen)):
        _refuse_impossible(file, field, point)
    for index, point in enumerate(study.best.front):
        _refuse_impossible(file, f"front[{index}]", point)
    if not _is_positive(study.best.price.usd_per_hour):
        raise BadInput(f"{file}: price.usd_per_hour: {study.best.price.usd_per_hour} is no price")
    return study


def _refuse_impossible(file: Path, field: str, point: MeasuredPoint) -> None:
    for name, value in (
        ("images_per_s", point.images_per_s),
        ("latency_s.value", point.latency_s.value),
        ("latency_p95_s", point.latency_p95_s),
        ("joules_per_image", point.joules_per_image),
    ):
        if value is not None and not _is_positive(value):
            raise BadInput(f"{file}: {field}.{name}: {value} cannot have been measured")


def _is_positive(value: float) -> bool:
    """Whether a figure, and what is reckoned from it, is above zero and finite."""
    return 1e-9 < value < 1e9


def _refuse_another(first: Study, other: Study) -> None:
    """Only what draws the same images can be compared by cost."""
    for (field, ours), theirs in zip(_identity(first.best).items(), _identity(other.best).values(), strict=True):
        if ours != theirs:
            raise BadInput(f"{other.file}: {field}: not that of {first.file}, so their costs do not compare")


def _identity(best: BestConfig) -> dict[str, Any]:
    model, workload = best.model, best.workload
    return {
        "model.pipeline_class": model.pipeline_class,
        "model.source": _name(model.source),
        "model.revision": model.revision,
        "model.scorer": _name(model.scorer),
        **{f"workload.{name}": getattr(workload, name) for name in workload.__struct_fields__},
        "quality_metric": best.quality_metric,
        "quality_tolerance": best.quality_tolerance,
    }


def _name(source: str) -> str:
    """A model's name; its folder may lie elsewhere on another machine."""
    return Path(source).name if Path(source).is_absolute() else source


def _front(best: BestConfig) -> list[MeasuredPoint]:
    """The baseline, then the front with the chosen point, the cheapest first."""
    points = {point.trial: point for point in (*best.front, best.chosen, best.baseline)}
    return sorted(points.values(), key=lambda point: (point.trial != best.baseline.trial, -point.images_per_s))


def _row(study: Study, point: MeasuredPoint, price: Price) -> CostRow:
    best = study.best
    return CostRow(
        file=study.file,
        device_name=best.environment.device_name,
        price=price,
        trial=point.trial,
        is_baseline=point.trial == best.baseline.trial,
        is_chosen=point.trial == best.chosen.trial,
        changed=point.changed,
        economics=economics(price.usd_per_hour, measurement(point), measurement(best.baseline)),
        predicted_from=point.predicted_from,
    )


# ---- as a table -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CostTable:
    """The report for people: a row of numbers for each configuration, below it the rest and its settings."""

    report: CostReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs, width, rows = glyphs_for(options.ascii_only), options.max_width, self.report.rows
        yield from _introduction(self.report, width)
        digits = max(len(str(row.trial)) for row in rows)
        marks = [" " if self.report.is_comparison else _mark(row, glyphs) for row in rows]
        cells = [
            (f"{mark} {row.trial:>{digits}}", *_numbers(row.economics)) for mark, row in zip(marks, rows, strict=True)
        ]
        headings = (("", "trial"), *HEADINGS)
        columns = zip(*cells, strict=True)
        widths = [max(map(len, (*heading, *column))) for heading, column in zip(headings, columns, strict=True)]
        ends = list(accumulate(column + GAP for column in widths))
        shown = max(1, sum(end - GAP <= width for end in ends))
        for line in range(2):
            yield _line([heading[line] for heading in headings], widths[:shown], BASELINE)
        yield Text(glyphs.rule * min(width, ends[shown - 1] - GAP), style=QUIET)
        for row, texts in zip(rows, cells, strict=True):
            yield _line(texts, widths[:shown], _style(row, self.report.is_comparison))
            left = [
                f"{' '.join(heading).strip().replace(' /', '/')} {text}"
                for heading, text in zip(headings[shown:], texts[shown:], strict=True)
            ]
            yield from _below(row, left, self.report, width)
        yield from _notes(self.report, glyphs, width)


def _introduction(report: CostReport, width: int) -> Iterator[Text]:
    name = f"{one_line(report.model)} ({one_line(report.pipeline_class)})"
    first = report.rows[0]
    if report.is_comparison:
        yield from wrap_text("", f"{name}, the chosen configuration of each study, cheapest first", width, BASELINE)
    else:
        yield from wrap_text("", f"{name} on {one_line(first.device_name)}", width, BASELINE)
        yield from wrap_text("", _price_text(first.price), width)
    yield Text("")


def _price_text(price: Price) -> str:
    return f"{price.usd_per_hour:.2f} US$ an hour ({one_line(price.source)})"


def _mark(row: CostRow, glyphs: Glyphs) -> str:
    return glyphs.chosen if row.is_chosen else glyphs.baseline if row.is_baseline else " "


def _style(row: CostRow, is_comparison: bool) -> str:
    if row.is_chosen and not is_comparison:
        return CHOSEN
    return BASELINE if row.is_baseline else ""


def _numbers(found: Economics) -> tuple[str, ...]:
    return (
        format_number(found.usd_per_1000_images),
        format_large(found.usd_per_million_images),
        format_large(found.images_per_hour),
        format_large(found.images_per_1000_usd),
        UNKNOWN if found.latency_p50_s is None else format_latency(found.latency_p50_s),
        UNKNOWN if found.latency_p95_s is None else format_latency(found.latency_p95_s),
        str(found.latency_samples),
    )


def _below(row: CostRow, left: Sequence[str], report: CostReport, width: int) -> Iterator[Text]:
    """What has no column: the machine where there are several, what is `left` of the row, then what it takes and is."""
    if report.is_comparison:
        where = f"{one_line(row.device_name)}, {_price_text(row.price)}"
        yield from wrap_text("", where, width, BASELINE, INDENT)
        yield from wrap_text("", one_line(row.file), width, QUIET, INDENT)
    yield from wrap_text("", "; ".join((*left, *_details(row))), width, "", INDENT)
    changed = label(row.changed) + (" (chosen)" if row.is_chosen and not report.is_comparison else "")
    yield from wrap_text("", changed, width, QUIET, INDENT)


def _details(row: CostRow) -> Iterator[str]:
    found = row.economics
    if row.predicted_from:
        yield f"predicted from {', '.join(map(str, row.predicted_from))} steps, not measured"
    if found.compile_s is not None:
        text = f"first call {format_latency(found.compile_s)} longer"
        if found.break_even_images is not None:
            images = found.break_even_images
            text += (
                ", no longer than the baseline's" if images == 0 else f", paid for after {pluralize(images, 'image')}"
            )
        elif not row.is_baseline:
            text += ", never paid for"
        yield text
    if found.smallest_card_gb is not None:
        yield f"fits a {found.smallest_card_gb} GB card"
    if found.joules_per_image is not None and found.images_per_s_per_watt is not None:
        joules = format_number(found.joules_per_image)
        yield f"{joules} J/image, {format_number(found.images_per_s_per_watt)} images/s/W"


def _notes(report: CostReport, glyphs: Glyphs, width: int) -> Iterator[Text]:
    """How to read the table, as far as it needs it."""
    found = [row.economics for row in report.rows]
    notes = []
    if not report.is_comparison:
        notes.append(f"{glyphs.chosen} chosen   {glyphs.baseline} baseline, the untouched pipeline")
    if any(one.latency_p95_s is None for one in found):
        needed = next(count for count in range(1, 1000) if supports_percentile(count, 0.95))
        notes.append(f"p95: only where it was measured with at least {needed} samples")
    if any(one.compile_s is not None for one in found):
        notes.append("first call: longer than a warm one by its compiling, less what an earlier trial had compiled")
    if any(one.smallest_card_gb is not None for one in found):
        notes.append(f"card: of {', '.join(map(str, CARDS_GB))} GB, {HEADROOM:.0%} of it left free")
    for note in notes:
        yield from wrap_text("", note, width, QUIET)
    if report.is_comparison and any(is_nominal(row.price) for row in report.rows):
        yield from wrap_text(
            "", "A nominal price compares with no other, so what has one stands last.", width, "yellow"
        )


def _line(cells: Sequence[str], widths: Sequence[int], style: str) -> Text:
    text = (" " * GAP).join(cell.rjust(width) for cell, width in zip(cells, widths, strict=False)).rstrip()
    return Text(text, style=style)

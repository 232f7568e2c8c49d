"""A comparison as text to pass on: Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tuner.compare import cells
from tuner.compare.comparison import letter
from tuner.compare.records import Changes, ComparedPoint, Comparison
from tuner.records.codec import encode_pretty
from tuner.records.text import visible
from tuner.report.markdown_text import code, plain, row

ESTIMATES = ("latency_s", "images_per_s", "iterations_per_s", "usd_per_million_images", "quality_difference")


def json(comparison: Comparison) -> str:
    """Write the whole record."""
    return encode_pretty(comparison).decode()


# ---- CSV ------------------------------------------------------------------------------------------------------------


def csv_table(comparison: Comparison) -> str:
    """Write a row for each point, with its intervals, its machine and its price."""
    rows = [_csv_row(comparison, point) for point in comparison.points]
    columns = dict.fromkeys(name for each in rows for name in each)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return visible(text.getvalue())


def _csv_row(comparison: Comparison, point: ComparedPoint) -> dict[str, Any]:
    source = comparison.sources[point.source]
    return {
        "source": letter(point.source),
        "file": source.file,
        "model": source.model,
        "device_name": source.device_name,
        "created_at": source.created_at,
        "usd_per_hour": source.price.usd_per_hour,
        "price_source": source.price.source,
        "front": source.front,
        "trial": point.trial,
        "settings": cells.settings(point),
        "standing": cells.standing(point),
        **{name: getattr(point, name) for name in ("steps", "batch", "is_baseline", "is_chosen", "is_predicted")},
        **{name: getattr(point, name) for name in ("as_good", "on_front", "peak_memory_bytes", "quality_metric")},
        **dict(_intervals(point)),
    }


def _intervals(point: ComparedPoint) -> Iterator[tuple[str, float]]:
    for name in ESTIMATES:
        estimate = getattr(point, name)
        yield from ((name, estimate.value), (f"{name}_low", estimate.low), (f"{name}_high", estimate.high))


# ---- Markdown -------------------------------------------------------------------------------------------------------


def markdown(comparison: Comparison) -> str:
    """Write the tables for a pull request or a chat."""
    lines = [
        f"- **{letter(index)}**: {plain(cells.source_text(each))}" for index, each in enumerate(comparison.sources)
    ]
    lines += ["", *_table((*cells.POINTS, "quality, memory", "configuration"), map(_point, comparison.points)), ""]
    lines += [f"- {plain(text)}" for text in (*cells.legend(comparison), *comparison.notes)]
    if comparison.instances:
        lines += ["", *_table(cells.INSTANCES, map(cells.instance_cells, comparison.instances))]
    if comparison.changes is not None:
        lines += _changes(comparison.changes)
    return visible("\n".join(lines) + "\n")


def _point(point: ComparedPoint) -> Sequence[str]:
    return cells.name(point), *cells.point_cells(point), cells.details(point), f"`{code(cells.settings(point))}`"


def _changes(changes: Changes) -> Iterator[str]:
    yield f"\n## From {letter(changes.before)} to {letter(changes.after)}\n"
    for title, figures in cells.figure_rows(changes):
        yield from (*_table((title, *cells.FIGURES[1:]), figures), "")
    yield cells.TOLD_APART
    for title, rows in cells.changed_rows(changes):
        yield f"\n{title}: {'' if rows else 'as before'}".rstrip() + ("\n" if rows else "")
        yield from _table(cells.CHANGED, rows) if rows else ()


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield row(headings)
    yield row(["---"] * len(headings))
    for each in rows:
        yield row([_cell(text) for text in each])


def _cell(text: str) -> str:
    """Return text that stays in its cell; code is shown as it is."""
    return text if text.startswith("`") and text.endswith("`") else plain(text).replace("|", "/").replace("`", "'")


FORMATS = {"md": markdown, "csv": csv_table, "json": json}

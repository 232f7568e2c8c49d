"""Put a study's report into the template, with its scripts and styles inside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tuner.errors import BadInput
from tuner.numbers import format_clock, format_difference, format_latency, format_number, format_ratio
from tuner.records.text import format_value, visible
from tuner.report import time_table
from tuner.report.explanation import setting_text
from tuner.report.explanation_text import untried_text, untried_title, worth_source
from tuner.report.figures import figure_rows, notes
from tuner.report.formatting import label, one_line, pluralize
from tuner.report.page import facts, images, metrics, settings, shares, steps, trials
from tuner.report.points import in_order
from tuner.report.study_report import StudyReport, state_note

if TYPE_CHECKING:
    from jinja2 import Environment

SCRIPTS = (("tuner.board", "static/chart.umd.min.js"), ("tuner.report.page", "templates/page.js"))
FILTERS: dict[str, Callable[..., Any]] = {
    "clock": format_clock, "difference": format_difference, "label": label, "latency": format_latency,
    "number": format_number, "one_line": one_line, "pluralize": pluralize, "ratio": format_ratio,
    "setting": format_value, "worth_source": worth_source,
}  # fmt: skip

LABEL = 9
"""The width of labels in the conclusion."""

T = TypeVar("T")


def page(report: StudyReport) -> str:
    """Return the whole page."""
    return _environment().get_template("report.html.j2").render(context(report))


def notebook_cell(report: StudyReport) -> str:
    """Return the front and the conclusion as a notebook shows them."""
    template = _environment().get_template("notebook.html.j2")
    return template.render(points=in_order(report.points), conclusion=report.conclusion)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tuner.report.page"), autoescape=True, undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(FILTERS)
    return environment


def context(report: StudyReport) -> dict[str, Any]:
    """Return all that the template shows."""
    best, rows = report.best, trials.trials(report)
    spent = report.time.activities if report.time else {}
    points = tuple({point.trial: point for point in (best.baseline, best.chosen)}.values())
    nothing: list[images.Strip] = []
    strips, images_note = known(lambda: images.strips(report), nothing)
    calls, classes = shares.call_bars(report), shares.class_bars(report)
    return {
        "report": report, "best": best, "state": state_note(report), "is_baseline": len(points) == 1,
        "headline": list(facts.headline(report)), "settings": settings.settings(report),
        "folder": Path(report.folder), "conclusion": [_labelled(line) for line in report.conclusion.splitlines()],
        "strips": strips, "images_note": images_note, "calls": calls, "classes": classes, "legend": shares.legend,
        "figures": list(figure_rows(best, points)), "notes": list(notes(best)), "steps": steps.steps(report),
        "columns": steps.COLUMNS, "metrics": metrics.metrics(report), "rows": rows, "counts": trials.counts(rows),
        "refused": sorted(report.refused.items(), key=lambda item: -item[1]),
        "marks": _marks(report, rows), "noise": list(facts.noise(report)), "machine": list(facts.machine(report)),
        "workload": list(facts.workload(report)), "account_texts": _account_texts(report),
        "untried_title": untried_title(report.explanation),
        "untried": [(setting_text(each), untried_text(each)) for each in report.explanation.untried],
        "account_rows": [(name, f"{format_clock(each.seconds)}, {each.share:.0%}") for name, each in spent.items()],
        "study_bar": shares.study_bar(report.time) if report.time else None,
        "style": _text("tuner.report.page", "templates/page.css"), "scripts": scripts(), "hashes": hashes(),
    }  # fmt: skip


def _labelled(line: str) -> tuple[str, str]:
    """Return the label of a line of the conclusion, and its text."""
    return line[:LABEL].strip(), line[LABEL:].strip()


def known(make: Callable[[], T], otherwise: T) -> tuple[T, str]:
    """Return what is made and no note, or what stands for it and why it could not be made."""
    try:
        return make(), ""
    except BadInput as error:
        return otherwise, one_line(str(error))


def _marks(report: StudyReport, rows: list[trials.Trial]) -> dict[str, Any]:
    """Return the data of the plots."""
    return {
        "marks": [row.mark() for row in rows],
        "metric": report.metric_title,
        "tolerance": report.best.quality_tolerance,
    }


def _account_texts(report: StudyReport) -> list[str]:
    if report.time is None:
        return []
    head = time_table.headline(report.time, report.request.environment.device).removeprefix("Time").strip()
    return [head, *time_table.figures(report.time)]


# ---- what stands in the page as it is -------------------------------------------------------------------------------


@cache
def _text(package: str, name: str) -> Any:
    """Return a file of this package, as it stands in the page."""
    from markupsafe import Markup

    return Markup(files(package).joinpath(name).read_text(encoding="utf-8"))  # noqa: S704


def scripts() -> list[Any]:
    """Return the scripts of the page."""
    return [_text(package, name) for package, name in SCRIPTS]


@cache
def hashes() -> tuple[str, ...]:
    """Return the hashes of the scripts: the page's policy lets the browser run no others."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts())
    return tuple(f"sha256-{base64.b64encode(digest).decode()}" for digest in digests)

"""A study's report for a terminal or a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.text import Text

from tuner.report.console import BASELINE, make_console
from tuner.report.explanation_text import ExplanationText
from tuner.report.figures import figures_table
from tuner.report.formatting import pluralize
from tuner.report.front_plot import front_plot
from tuner.report.front_table import front_table
from tuner.report.panel_table import panel_table
from tuner.report.renderers.base import Renderer
from tuner.report.study_report import StudyReport, state_note
from tuner.report.time_table import TimeTable
from tuner.report.trial_counts import trial_counts


def parts(report: StudyReport) -> Iterator[RenderableType]:
    """Yield the front, the figures of the chosen configuration, all metrics, the counts of trials, where the time went,
    why this one was chosen, and the conclusion.
    """
    if report.points:
        yield Text(front_title(report), style=BASELINE)
    yield front_table(report.points, report.metric_title)
    yield front_plot(report.points, metric=report.metric_title)
    yield figures_table(report.best)
    yield panel_table(report.best, report.metric_title)
    yield trial_counts(report.outcomes, report.refused)
    if report.time is not None:
        yield TimeTable(report.time, report.request.environment.device)
    yield ExplanationText(report.explanation)
    yield Text("\n".join(filter(None, (report.conclusion, state_note(report)))))


def front_title(report: StudyReport) -> str:
    """Say which trials the front's table has, and where all of them are."""
    shown = f"{len(report.points)} of {pluralize(len(report.outcomes), 'trial')}"
    return f"Pareto front and baseline: {shown} (all: tune show STUDY --format csv)"


class Terminal(Renderer):
    """Text as wide as a console, with colours and characters that its stream supports; by default standard output."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or make_console(sys.stdout)

    def render(self, report: StudyReport) -> str:
        with self._console.capture() as captured:
            for part in parts(report):
                self._console.print(part)
        return captured.get()

"""All metrics of the finalists' images as a table: a row for each metric, a column for each trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from tuner.numbers import format_short
from tuner.records.quality import MetricResult
from tuner.report.console import BASELINE, CHOSEN, QUIET
from tuner.report.formatting import one_line, wrap_text
from tuner.report.tables import add_number_column, make_bare_table, width_of
from tuner.result.records import BestConfig, MeasuredPoint

ABSENT = "-"
SAME = "="


def panel_table(best: BestConfig, metric_title: str) -> RenderableType:
    """Return the baseline, the chosen point and as many others as fit; nothing if no images were examined.

    The metric of that title, the objective, stands on top.
    """
    return _PanelTable(best, metric_title)


@dataclass(frozen=True)
class _PanelTable:
    best: BestConfig
    metric_title: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self.best.baseline.panel:
            return
        points = self._points()
        while len(points) > 2 and width_of(self._table(points), console, options) > options.max_width:
            points.pop()
        yield self._table(points)
        decides = f"{one_line(self.metric_title)} alone decides what is as good; the others are for information"
        yield from wrap_text("", decides, options.max_width, QUIET)
        legend = f"{SAME} no further from the baseline than rounding alone moves it"
        yield from wrap_text("", legend, options.max_width, QUIET)
        if self.best.quality_unavailable_reasons:
            names = ", ".join(self.best.quality_unavailable_reasons)
            note = f"not measured: {names} (best_config.json has the reasons)"
            yield from wrap_text("", note, options.max_width, QUIET)

    def _points(self) -> list[MeasuredPoint]:
        best = self.best
        points = {point.trial: point for point in (best.baseline, best.chosen, *best.front)}
        return [point for point in points.values() if point.panel]

    def _table(self, points: Sequence[MeasuredPoint]) -> Table:
        best, table = self.best, make_bare_table(BASELINE)
        table.add_column("Quality", no_wrap=True, overflow="crop", style=QUIET)
        for point in points:
            is_chosen = point.trial == best.chosen.trial != best.baseline.trial
            heading = "baseline" if point.trial == best.baseline.trial else f"trial {point.trial}"
            add_number_column(table, heading, CHOSEN if is_chosen else "")
        panel = best.baseline.panel or {}
        for name, result in sorted(panel.items(), key=lambda item: item[0] != best.quality_metric):
            table.add_row(Text(_title(result)), *(Text(_cell(point, name)) for point in points))
        return table


def _title(result: MetricResult) -> str:
    return f"{one_line(result.title)} ({one_line(result.unit)})"


def _cell(point: MeasuredPoint, name: str) -> str:
    result = (point.panel or {}).get(name)
    if result is None:
        return ABSENT
    return f"{SAME if result.verdict == 'same' else ''}{format_short(result.value.value, 4)}"

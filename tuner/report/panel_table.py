"""What all metrics say of the finalists, for people: a row a metric, a column a trial."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from tuner.records.quality import MetricResult
from tuner.report.console import BASELINE, CHOSEN, GAP, QUIET
from tuner.report.formatting import columns_line, one_line, wrap_text
from tuner.result.config import BestConfig, MeasuredPoint

ABSENT = "-"
SAME = "="


def panel(best: BestConfig) -> RenderableType:
    """The baseline, the choice, and as many of the front as there is room for; nothing when nothing was examined."""
    return _PanelTable(best)


@dataclass(frozen=True)
class _PanelTable:
    best: BestConfig

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        best, baseline = self.best, self.best.baseline.panel
        if not baseline:
            return
        rest = [point for point in best.front if point.trial not in (best.baseline.trial, best.chosen.trial)]
        points = {point.trial: point for point in (best.baseline, best.chosen, *rest) if point.panel}
        heads = [_head(point, best) for point in points.values()]
        rows = [(_name(found), [_cell(point, name) for point in points.values()]) for name, found in baseline.items()]
        first = max(len(name) for name, _ in rows)
        widths = [max(len(head), *(len(cells[at]) for _, cells in rows)) for at, head in enumerate(heads)]
        while len(widths) > 2 and first + sum(GAP + width for width in widths) > options.max_width:
            widths.pop()
        yield Text(columns_line("Quality", heads, first, widths), style=BASELINE)
        for name, cells in rows:
            text = Text(columns_line(name, cells, first, widths))
            text.stylize(QUIET, 0, first)
            start = first
            for point, width in zip(points.values(), widths, strict=False):
                start += GAP
                if point.trial == best.chosen.trial != best.baseline.trial:
                    text.stylize(CHOSEN, start, start + width)
                start += width
            yield text
        yield from wrap_text(
            "", f"{SAME} as near as rounding alone leaves the baseline to itself", options.max_width, QUIET
        )
        if best.quality_unavailable_reasons:
            missing = f"not measured: {', '.join(best.quality_unavailable_reasons)} (best_config.json says why)"
            yield from wrap_text("", missing, options.max_width, QUIET)


def _head(point: MeasuredPoint, best: BestConfig) -> str:
    return "baseline" if point.trial == best.baseline.trial else f"trial {point.trial}"


def _name(found: MetricResult) -> str:
    return f"{one_line(found.title)} ({one_line(found.unit)})"


def _cell(point: MeasuredPoint, name: str) -> str:
    found = (point.panel or {}).get(name)
    if found is None:
        return ABSENT
    return f"{SAME if found.verdict == 'same' else ''}{found.value.value:.4g}"

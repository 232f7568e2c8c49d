"""The table of studies that `tune list` prints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from tuner.report.console import CHOSEN, QUIET
from tuner.report.formatting import one_line, wrap_text
from tuner.report.studies import StudyList, StudySummary
from tuner.report.tables import add_number_column, draw_with_details, make_table, width_of

STYLES = {"running": "cyan", "interrupted": "yellow", "finished": "green", "damaged": "red"}

INDENT = 4


class StudyTable:
    """A row for each study, below it what was chosen, or what is wrong with its folder.

    The name comes first and is never broken, so that it can be copied.
    """

    def __init__(self, studies: StudyList) -> None:
        self._studies = studies

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._studies.studies:
            yield Text(f"{self._studies.folder}: no study in there; `tune run` makes one")
            return
        whole = self._table(options, has_model=True)
        has_room = width_of(whole, console, options) <= options.max_width
        table = whole if has_room else self._table(options, has_model=False)
        below = [_below(study, options.max_width, has_model=not has_room) for study in self._studies.studies]
        yield from draw_with_details(table, below, console, options)

    def _table(self, options: ConsoleOptions, *, has_model: bool) -> Table:
        table = make_table(options)
        for heading in ("study", "state"):
            table.add_column(heading, no_wrap=True)
        for heading in ("trials", "gain"):
            add_number_column(table, heading)
        if has_model:
            table.add_column("model", no_wrap=True)
        for study in self._studies.studies:
            table.add_row(
                Text(_name(study.folder, self._studies.folder)),
                Text(study.state, style=STYLES[study.state]),
                Text(str(study.trials) if study.error is None else ""),
                Text(f"{study.gain.value:.2f}x" if study.gain else ""),
                *([Text(short_model(study.model))] if has_model else []),
            )
        return table


def _name(folder: str, below: str) -> str:
    """Return a study's path below the folder that is listed."""
    path = Path(folder)
    return one_line(str(path.relative_to(below)) if path != Path(below) else path.name or folder)


def short_model(model: str | None) -> str:
    """Return a model's hub id, or the name of its folder."""
    return one_line(Path(model).name if model and Path(model).is_absolute() else model or "")


def _below(study: StudySummary, width: int, *, has_model: bool) -> Iterator[Text]:
    """Yield the lines below a study, the model first if the table has no room for it."""
    text, style = _chosen(study)
    model = short_model(study.model)
    yield from wrap_text("", f"{model}: {text}" if has_model and model else text, width, style, INDENT)


def _chosen(study: StudySummary) -> tuple[str, str]:
    """Return what stands below a study, and its style."""
    if study.error is not None:
        return one_line(study.error), "red"
    if study.chosen is None:
        return "nothing yet", QUIET
    return one_line(study.chosen), CHOSEN if study.chosen_trial else ""

"""The table of studies that `tune list` prints."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from tuner.report.console import CHOSEN, QUIET
from tuner.report.formatting import one_line
from tuner.report.studies import StudyList, StudySummary
from tuner.report.tables import add_number_column, make_table

STYLES = {"running": "cyan", "interrupted": "yellow", "finished": "green", "damaged": "red"}


class StudyTable:
    """A row for each study, below it what was chosen, or what is wrong with its folder."""

    def __init__(self, studies: StudyList) -> None:
        self._studies = studies

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._studies.studies:
            yield Text(f"{self._studies.folder}: no study in there; `tune run` makes one")
            return
        table = make_table(options)
        table.add_column("study", overflow="fold")
        table.add_column("model", overflow="fold")
        table.add_column("state", no_wrap=True)
        add_number_column(table, "trials")
        add_number_column(table, "gain")
        table.add_column("chosen", overflow="fold", ratio=1)
        for study in self._studies.studies:
            self._add(table, study)
        yield table

    def _add(self, table: Table, study: StudySummary) -> None:
        table.add_row(
            Text(_name(study.folder, self._studies.folder)),
            Text(short_model(study.model)),
            Text(study.state, style=STYLES[study.state]),
            Text(str(study.trials) if study.error is None else ""),
            Text(f"{study.gain.value:.2f}x" if study.gain else ""),
            _chosen(study),
        )


def _name(folder: str, below: str) -> str:
    """Return a study's path below the folder that is listed."""
    path = Path(folder)
    return one_line(str(path.relative_to(below)) if path != Path(below) else path.name or folder)


def short_model(model: str | None) -> str:
    """Return a model's hub id, or the name of its folder."""
    return one_line(Path(model).name if model and Path(model).is_absolute() else model or "")


def _chosen(study: StudySummary) -> Text:
    if study.error is not None:
        return Text(one_line(study.error), style="red")
    if study.chosen is None:
        return Text("nothing yet", style=QUIET)
    return Text(one_line(study.chosen), style=CHOSEN if study.chosen_trial else "")

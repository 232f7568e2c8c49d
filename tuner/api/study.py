"""A study as an object: its result, its front and its trials, read from its folder alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import Unavailable
from tuner.files import resolved
from tuner.records.outcome import Outcome
from tuner.report.formatting import pluralize
from tuner.report.page.page import notebook_cell
from tuner.report.points import FrontPoint, in_order
from tuner.report.renderers import RENDERERS
from tuner.report.studies import find_study
from tuner.report.study_report import StudyReport, read_report
from tuner.report.trial_rows import trial_rows
from tuner.result.records import BestConfig

if TYPE_CHECKING:
    from tuner.result.apply import Tuned


class Study:
    """A study in its folder, as far as it has come. What it says is read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def open(cls, study: str | os.PathLike[str] | None = None, out: str | os.PathLike[str] = "traces") -> Study:
        """Open a study by its folder, or by its name in `out`; without either the newest one there.

        Raises BadInput if there is none.
        """
        name = None if study is None else os.fspath(study)
        return cls(resolved(find_study(name, resolved(Path(out)))))

    @cached_property
    def report(self) -> StudyReport:
        """The whole record. Raises BadInput naming what is missing or damaged."""
        return read_report(self.folder)

    @property
    def best(self) -> BestConfig:
        """The contents of best_config.json: the chosen configuration, the baseline and the front."""
        return self.report.best

    @property
    def best_config(self) -> Path:
        """The path of best_config.json."""
        return self.folder / "best_config.json"

    @property
    def front(self) -> Sequence[FrontPoint]:
        """The baseline and the points of the front, cheapest first."""
        return in_order(self.report.points)

    @property
    def trials(self) -> Trials:
        """All trials in order."""
        return Trials(self.report)

    def load(self, trial: int | None = None) -> Tuned:
        """Load the pipeline with the chosen configuration, or with that of a `trial` on the front."""
        from tuner.result.apply import load

        return load(self.best_config, trial)

    def __repr__(self) -> str:
        return f"<tuner.Study {self.folder}>"

    def __str__(self) -> str:
        """Format the report as in a terminal."""
        return RENDERERS["terminal"]().render(self.report)

    def _repr_html_(self) -> str:
        """Show the front and the conclusion in a notebook."""
        return notebook_cell(self.report)


class Trials(Sequence[Outcome]):
    """The trials of a study, each as it was recorded."""

    def __init__(self, report: StudyReport) -> None:
        self.report = report
        self.outcomes = report.outcomes

    def __getitem__(self, index: Any) -> Any:
        return self.outcomes[index]

    def __len__(self) -> int:
        return len(self.outcomes)

    def __repr__(self) -> str:
        counts = Counter(outcome.status for outcome in self.outcomes)
        statuses = ", ".join(f"{count} {status}" for status, count in counts.items())
        return f"<{pluralize(len(self), 'trial')}{': ' if statuses else ''}{statuses}>"

    def rows(self) -> Iterator[dict[str, Any]]:
        """Return a row for each trial: its status and reason, its figures, and the value of each knob."""
        return trial_rows(self.report)

    def to_pandas(self) -> Any:
        """Return the rows as a DataFrame, indexed by trial. Raises Unavailable without pandas."""
        try:
            import pandas
        except ImportError:
            raise Unavailable("to_pandas: pandas is not installed; pip install pandas, or use rows()") from None
        return pandas.DataFrame(list(self.rows())).set_index("trial")

"""A study's trials as CSV, for a spreadsheet or a data frame."""

from __future__ import annotations

import csv
import io

from tuner.records.text import visible
from tuner.report.renderers.base import Renderer
from tuner.report.study_report import StudyReport
from tuner.report.trial_rows import trial_rows


class Csv(Renderer):
    """A row for each trial, a column for each figure and each knob; what is unknown or not active is empty."""

    def render(self, report: StudyReport) -> str:
        rows = list(trial_rows(report))
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return visible(text.getvalue())

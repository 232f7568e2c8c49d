"""The interface of renderers."""

from __future__ import annotations

from typing import Protocol

from tuner.report.study_report import StudyReport


class Renderer(Protocol):
    """Turns a study's report into text."""

    def render(self, report: StudyReport) -> str:
        """Render a report."""

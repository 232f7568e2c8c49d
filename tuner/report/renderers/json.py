"""A study's report as JSON."""

from __future__ import annotations

from tuner.records.codec import encode_pretty
from tuner.report.renderers.base import Renderer
from tuner.report.study_report import StudyReport


class Json(Renderer):
    """The whole record."""

    def render(self, report: StudyReport) -> str:
        return encode_pretty(report).decode()

"""A study's report as one HTML file, made to be looked at."""

from __future__ import annotations

from tuner.report.page.page import page
from tuner.report.renderers.base import Renderer
from tuner.report.study_report import StudyReport


class Html(Renderer):
    """The page with its plots, images and tables; it needs no network."""

    def render(self, report: StudyReport) -> str:
        return page(report)

"""A study's report as a page of preformatted text."""

from __future__ import annotations

import io

from tuner.report.console import make_console
from tuner.report.renderers.base import Renderer
from tuner.report.renderers.terminal import parts
from tuner.report.study_report import StudyReport

WIDTH = 160


class Html(Renderer):
    """The terminal's report with its colours, in one HTML file."""

    def render(self, report: StudyReport) -> str:
        console = make_console(io.StringIO(), WIDTH)
        console.record = True
        for part in parts(report):
            console.print(part)
        return console.export_html()

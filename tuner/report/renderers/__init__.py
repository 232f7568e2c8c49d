"""Renderers of a study's report by name. A new one is a file here and a line below."""

from __future__ import annotations

from tuner.report.renderers.base import Renderer
from tuner.report.renderers.csv import Csv
from tuner.report.renderers.html import Html
from tuner.report.renderers.json import Json
from tuner.report.renderers.markdown import Markdown
from tuner.report.renderers.terminal import Terminal

RENDERERS: dict[str, type[Renderer]] = {
    "terminal": Terminal,
    "md": Markdown,
    "json": Json,
    "html": Html,
    "csv": Csv,
}

"""The console, its styles and its characters."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console

GAP = 2
"""Columns between two columns of a table."""

CHOSEN = "bold green"

BASELINE = "bold"

QUIET = "dim"


@dataclass(frozen=True)
class Glyphs:
    """The characters of the marks and of the drawing."""

    baseline: str
    chosen: str
    other: str
    rule: str
    horizontal: str
    vertical: str
    corner: str
    interval: str
    level: str
    axis: str
    origin: str
    x_tick: str
    y_tick: str
    spinner: str
    dot: str
    plus_minus: str


UNICODE = Glyphs("◆", "★", "●", "─", "─", "│", "┘", "┊", "·", "│", "└", "┬", "┤", "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "·", "±")

ASCII = Glyphs("B", "*", "o", "-", "-", "|", "+", ":", ".", "|", "+", "+", "+", "|/-\\", "-", "+-")


def glyphs_for(ascii_only: bool) -> Glyphs:
    """The characters that a stream can take."""
    return ASCII if ascii_only else UNICODE


def make_console(stream: TextIO, width: int | None = None) -> Console:
    """A console that takes text literally and never fails on a character that the stream cannot encode."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)

"""The console, its styles and its characters."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console

CHOSEN = "bold green"

BASELINE = "bold"

QUIET = "dim"


@dataclass(frozen=True)
class Glyphs:
    """The characters of marks and plots."""

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
    """Return the characters that a stream can encode."""
    return ASCII if ascii_only else UNICODE


class _Console(Console):
    """A console that leaves it to the command what a broken pipe means."""

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704  (called while the BrokenPipeError is handled)


def make_console(stream: TextIO, width: int | None = None) -> Console:
    """Make a console that prints text literally and escapes characters that the stream cannot encode."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return _Console(file=stream, width=width, markup=False, highlight=False, emoji=False)

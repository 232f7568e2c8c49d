"""The console, its styles and its characters."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from tuner.records.text import visible

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
    """A console that shows no control characters of a text, and leaves it to the command what a broken pipe means."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704  (called while the BrokenPipeError is handled)


def make_console(stream: TextIO, width: int | None = None) -> Console:
    """Make a console that prints text literally, and escapes control characters and what the stream cannot encode."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return _Console(file=stream, width=width, markup=False, highlight=False, emoji=False)

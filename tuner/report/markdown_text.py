"""Text of a study inside Markdown, which it must not break out of."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tuner.report.formatting import one_line

OUTSIDE = {"`": "'", "|": "/"}
"""What would end a piece of code or a cell, and what stands in its place."""


def plain(text: str) -> str:
    """Return text in which nothing is an element of HTML."""
    return escape(one_line(text), quote=False)


def code(text: str) -> str:
    """Return text that stays inside its code and its cell of a table."""
    return "".join(OUTSIDE.get(char, char) for char in text if char != "\n")


def row(cells: Sequence[str]) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"

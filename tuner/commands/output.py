"""Print the result of a command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tuner.records.codec import Record


def print_result(record: Record, text: RenderableType, as_json: bool) -> None:
    """Print a record as JSON, or its text for people."""
    from tuner.records.codec import encode_pretty
    from tuner.report.console import make_console

    if as_json:
        print(encode_pretty(record).decode(), end="")
    else:
        make_console(sys.stdout).print(text)

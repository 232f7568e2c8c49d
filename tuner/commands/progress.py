"""How much a command that runs a study tells, and where."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tuner.records.codec import Value
    from tuner.report.display import Display

Amount = Literal["normal", "quiet", "verbose"]


def add_progress(parser: argparse.ArgumentParser | argparse._ArgumentGroup, json_help: str) -> None:
    """Add --quiet, --verbose and --json."""
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--quiet", dest="amount", action="store_const", const="quiet", default="normal",
        help="print the report at the end only",
    )  # fmt: skip
    amount.add_argument(
        "--verbose", dest="amount", action="store_const", const="verbose",
        help="print a line for every event, each stage of each trial too, instead of a live view",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help=json_help)


def make_progress(amount: Amount, as_json: bool, baseline: Mapping[str, Value]) -> Display:
    """Make the display of a study. Beside JSON, progress goes to standard error."""
    from tuner.report.live import make_display
    from tuner.report.plain import PlainDisplay
    from tuner.report.silent import SilentDisplay

    stream = sys.stderr if as_json else sys.stdout
    if amount == "quiet":
        return SilentDisplay()
    if amount == "verbose":
        return PlainDisplay(stream, baseline, is_whole=True)
    return make_display(stream, baseline)

"""`tune list`: the studies below a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from tuner.commands.arguments import Subparsers, add_json
from tuner.commands.output import print_result

SUMMARY = "list the studies below a folder"
DESCRIPTION = """\
List the studies below a folder: their model, whether they are finished, how
many trials they have, what was chosen and its gain in throughput.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the arguments of `tune list`."""
    parser = subparsers.add_parser("list", help=SUMMARY, description=DESCRIPTION)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("traces"), metavar="FOLDER",
        help="folder to look for studies in, at any depth (default: traces)",
    )  # fmt: skip
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a table of studies."""
    from tuner.report.studies import list_studies
    from tuner.report.study_table import StudyTable

    studies = list_studies(options.folder)
    print_result(studies, StudyTable(studies), options.json)
    return 0

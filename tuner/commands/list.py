"""`tune list`: the studies below a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from tuner.commands.arguments import Subparsers, add_json, add_studies
from tuner.commands.output import print_result

SUMMARY = "list the studies below a folder"
DESCRIPTION = """\
List the studies below a folder, at any depth: their model, whether they are
finished, how many trials they have, what was chosen and its gain in throughput.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the arguments of `tune list`."""
    parser = subparsers.add_parser("list", help=SUMMARY, description=DESCRIPTION)
    add_studies(parser)
    parser.add_argument("out", nargs="?", default=argparse.SUPPRESS, metavar="FOLDER", help="short for --out FOLDER")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a table of studies."""
    from tuner.report.studies import list_studies
    from tuner.report.study_table import StudyTable

    studies = list_studies(Path(options.out))
    print_result(studies, StudyTable(studies), options.json)
    return 0

"""`tune show`: the report of a study, from its folder alone."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from tuner.commands.arguments import Subparsers, add_format, add_study
from tuner.commands.streams import note_running
from tuner.errors import BadInput

if TYPE_CHECKING:
    from tuner.report.study_report import StudyReport

FORMATS = ("terminal", "md", "json", "html", "csv")
PARQUET = "parquet"
"""The format that is not text, and that needs a further library."""

SUMMARY = "show the report of a finished or running study"
DESCRIPTION = """\
Show the report of a study from its folder alone, on any machine: the front,
the chosen configuration, all metrics, the counts of trials, the conclusion. Of
a study that is still running, or was interrupted, it shows what is known by
now.
"""
EXAMPLES = """\
examples:
  tune show                                      the newest study
  tune show demo-9ec7c40c --format md            for an issue or a README
  tune show demo-9ec7c40c --format html > report.html
  tune show --format csv > trials.csv            a row for each trial
  tune show --format parquet > trials.parquet    with types; needs pyarrow
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the arguments of `tune show`."""
    parser = subparsers.add_parser("show", help=SUMMARY, description=DESCRIPTION, epilog=EXAMPLES)
    add_study(parser)
    add_format(parser, (*FORMATS, PARQUET), "terminal", "format of the report")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a study's report."""
    from tuner.report.renderers import RENDERERS
    from tuner.report.studies import find_study
    from tuner.report.study_report import read_report

    folder = find_study(options.study, options.out)
    note_running(folder)
    report = read_report(folder)
    if options.format == PARQUET:
        write_parquet(report)
    else:
        sys.stdout.write(RENDERERS[options.format]().render(report))
    sys.stdout.flush()
    return 0


def write_parquet(report: StudyReport) -> None:
    """Write the trials as Parquet to standard output. Raises BadInput if that is a terminal."""
    from tuner.report.parquet import parquet

    data = parquet(report)
    if sys.stdout.isatty():
        raise BadInput(
            "--format parquet: it is no text: write it to a file, tune show --format parquet > trials.parquet"
        )
    sys.stdout.buffer.write(data)

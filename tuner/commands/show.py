"""`tune show`: the report of a study, from its folder alone."""

from __future__ import annotations

import argparse
import sys

from tuner.commands.arguments import Subparsers, add_study

FORMATS = ("terminal", "markdown", "json", "html", "csv")
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
  tune show demo-9ec7c40c --format markdown      for an issue or a README
  tune show demo-9ec7c40c --format html > report.html
  tune show --format csv > trials.csv            a row for each trial
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the arguments of `tune show`."""
    parser = subparsers.add_parser("show", help=SUMMARY, description=DESCRIPTION, epilog=EXAMPLES)
    add_study(parser)
    parser.add_argument(
        "--format", choices=FORMATS, default="terminal", help="format of the report (default: terminal)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a study's report."""
    from tuner.report.renderers import RENDERERS
    from tuner.report.studies import find_study
    from tuner.report.study_report import read_report

    report = read_report(find_study(options.study, options.out))
    sys.stdout.write(RENDERERS[options.format]().render(report))
    sys.stdout.flush()
    return 0

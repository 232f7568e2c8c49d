"""`tune compare`: results of several machines, models or dates side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tuner.commands.arguments import A_RESULT, Subparsers, add_format, add_studies, price
from tuner.commands.streams import note_running

FORMATS = ("table", "json", "csv", "md")
SUMMARY = "put results of several machines, models or dates side by side"
DESCRIPTION = """\
Show the results of several studies in one table, the cheapest first: latency,
images and iterations a second, US$ per million images, with 95 % intervals, and
the front of cost and latency over all of them. Below it the cost at each offer
for the machines in the dated table of prices. Of two results of the same
machine and model it says what changed: settings, figures, environment.
"""
EXAMPLES = """\
examples:
  tune compare traces/sdxl-1a2b3c4d h100/best_config.json l40s/best_config.json
  tune compare sdxl-1a2b3c4d sdxl-5e6f7a8b       what changed since
  tune compare */best_config.json --format csv > comparison.csv

Without --price and --provider the price is the lower median of the list prices
of a machine (as in `tune cost`), or the study's own where there is none.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the arguments of `tune compare`."""
    parser = subparsers.add_parser("compare", help=SUMMARY, description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("results", nargs="+", metavar="RESULT", help=A_RESULT)
    add_studies(parser)
    prices = parser.add_mutually_exclusive_group()
    prices.add_argument("--price", type=price, metavar="USD", help="price of an hour of each machine in US dollars")
    prices.add_argument("--provider", metavar="NAME", help="use this provider's list prices")
    parser.add_argument(
        "--all", action="store_true",
        help="show every point of the studies' fronts (default: untouched, chosen, and the front over all studies)",
    )  # fmt: skip
    add_format(parser, FORMATS, "table")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a comparison."""
    from tuner.compare.comparison import compare
    from tuner.compare.reading import read_results
    from tuner.compare.table import CompareTable
    from tuner.compare.text import FORMATS as WRITERS
    from tuner.report.console import make_console

    results = read_results(options.results, options.out)
    for result in results:
        note_running(Path(result.file).parent)
    comparison = compare(results, options.price, options.provider, every=options.all)
    if options.format == "table":
        make_console(sys.stdout).print(CompareTable(comparison))
    else:
        sys.stdout.write(WRITERS[options.format](comparison))
    sys.stdout.flush()
    return 0

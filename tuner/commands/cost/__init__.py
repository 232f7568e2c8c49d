"""`tune cost`: compute what images cost at any price, and compare GPUs."""

from __future__ import annotations

import argparse

from tuner.commands.arguments import A_RESULT, Subparsers, add_json, add_studies, price
from tuner.commands.output import print_result
from tuner.commands.streams import note_running

SUMMARY = "compute what the images of a tuned pipeline cost, and compare GPUs"
DESCRIPTION = """\
Compute the cost per image of tuned configurations. One result: its Pareto front
at another price. Several results of the same model and workload: the chosen
configuration on each GPU, cheapest first. Prices are dated list prices unless
you give your own.
"""
EXAMPLES = """\
examples:
  tune cost flux-1-dev-1a2b3c4d --price 2.49
  tune cost h100/best_config.json l40s/best_config.json --provider RunPod
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the arguments of `tune cost`."""
    parser = subparsers.add_parser("cost", help=SUMMARY, description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("results", nargs="*", metavar="RESULT", help=f"{A_RESULT} (default: the newest study)")
    add_studies(parser)
    prices = parser.add_mutually_exclusive_group()
    prices.add_argument(
        "--price", type=price, metavar="USD", help="US dollars for a GPU hour, on a CPU for a machine hour"
    )
    prices.add_argument(
        "--provider", metavar="NAME", help="use this provider's list prices (default: the lower median of all)"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the cost of one study's front, or of several studies' chosen configurations."""
    from tuner.commands.cost.report import make_report
    from tuner.commands.cost.table import CostTable
    from tuner.report.studies import find_result

    files = [find_result(result, options.out) for result in options.results or [None]]
    for file in files:
        note_running(file.parent)
    report = make_report(files, options.price, options.provider)
    print_result(report, CostTable(report), options.json)
    return 0

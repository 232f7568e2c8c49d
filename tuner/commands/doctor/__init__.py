"""`tune doctor`: check this machine and list what one more package would enable."""

from __future__ import annotations

import argparse

from tuner.commands.arguments import Subparsers, add_device, add_json
from tuner.commands.output import print_result

SUMMARY = "check GPU, compiler, packages and scorer, and list what a missing package would enable"
DESCRIPTION = """\
Check the GPU, the compiler, the installed packages and whether the model that
scores the images is cached or on the hub. List which settings work because of
them, and what one more `pip install` would enable. Changes nothing.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the arguments of `tune doctor`."""
    parser = subparsers.add_parser("doctor", help=SUMMARY, description=DESCRIPTION)
    add_device(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the diagnosis of this machine."""
    from tuner.commands.doctor.diagnosis import diagnose
    from tuner.commands.doctor.table import DiagnosisTable

    diagnosis = diagnose(options.device)
    print_result(diagnosis, DiagnosisTable(diagnosis), options.json)
    return 0

"""`tune knobs`: list what `tune run` can vary in a pipeline on this machine."""

from __future__ import annotations

import argparse

from tuner.commands.arguments import Subparsers, add_device, add_devices, add_json, add_model
from tuner.commands.output import print_result

SUMMARY = "list the settings that tune run can vary, and why some cannot be used here"
DESCRIPTION = """\
List every setting (knob) that `tune run` can vary, with its values: which of
them work for this pipeline on this machine, why the others do not, and which
ones change the image. Below them stand the recipes of its search space.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the arguments of `tune knobs`."""
    parser = subparsers.add_parser("knobs", help=SUMMARY, description=DESCRIPTION)
    add_model(parser)
    add_device(parser)
    add_devices(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """List the knobs."""
    from tuner.commands.knobs.catalogue import catalogue
    from tuner.commands.knobs.table import CatalogueTable
    from tuner.hardware import environment
    from tuner.model import pipeline

    _, architecture = pipeline.resolve(options.model, options.revision, None, options.variant, options.base)
    result = catalogue(options.model, architecture, environment.detect(options.device, devices=options.devices))
    print_result(result, CatalogueTable(result), options.json)
    return 0

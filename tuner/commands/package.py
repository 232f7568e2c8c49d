"""`tune package`: a tuned configuration as a folder that a container serves."""

from __future__ import annotations

import argparse

from tuner.commands.arguments import STUDIES, Subparsers, add_json, add_result, add_trial, folder
from tuner.commands.output import print_result
from tuner.commands.streams import note_running

SUMMARY = "write a folder with everything that a serving container needs"
DESCRIPTION = """\
Write a folder to serve a tuned configuration from: best_config.json, the plain
Python file of `tune export`, an example of a FastAPI server with one warm-up
and a health check, requirements.txt, a Dockerfile, a README.md, and the study's
compiled code, which is used only on the same device with the same versions,
where nobody else can write to it.
"""
EXAMPLES = """\
examples:
  tune package demo-9ec7c40c --out serving
  tune package best_config.json --trial 12 --out serving

A name is that of a study in traces; of one elsewhere give the folder.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the arguments of `tune package`."""
    parser = subparsers.add_parser("package", help=SUMMARY, description=DESCRIPTION, epilog=EXAMPLES)
    add_result(parser)
    parser.add_argument("--out", type=folder, required=True, metavar="FOLDER", help="folder to write, new or empty")
    add_trial(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write a package and say what is in it."""
    from rich.text import Text

    from tuner.package.texts import compiled_text
    from tuner.package.writing import write_package
    from tuner.report.studies import find_result

    file = find_result(options.result, STUDIES)
    note_running(file.parent)
    package = write_package(file, options.trial, options.out)
    lines = [f"{package.folder}: {', '.join(package.files)}", compiled_text(package), "README.md says how to start it."]
    print_result(package, Text("\n".join(lines)), options.json)
    return 0

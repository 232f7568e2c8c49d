"""`tune package`: a tuned configuration as a folder that a container serves."""

from __future__ import annotations

import argparse
from pathlib import Path

from tuner.commands.arguments import Subparsers, add_json, folder, trial_number
from tuner.commands.output import print_result

SUMMARY = "write a folder with everything that a serving container needs"
DESCRIPTION = """\
Write a folder to serve a tuned configuration from: best_config.json, the plain
Python file of `tune export`, an example of a FastAPI server with one warm-up and
a health check, requirements.txt, a Dockerfile, a README.md, and the study's
compiled code, which is used only on the same device with the same versions,
where nobody else can write to it.
"""
EXAMPLES = """\
examples:
  tune package traces/demo-9ec7c40c --out serving
  tune package best_config.json --trial 12 --out serving
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the arguments of `tune package`."""
    parser = subparsers.add_parser("package", help=SUMMARY, description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("file", type=Path, metavar="FILE", help="a best_config.json or a study folder")
    parser.add_argument("--out", type=folder, required=True, metavar="FOLDER", help="folder to write, new or empty")
    parser.add_argument(
        "--trial", type=trial_number, metavar="N", help="point of the front to take (default: the chosen one)"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write a package and say what is in it."""
    from rich.text import Text

    from tuner.package.texts import compiled_text
    from tuner.package.writing import write_package

    package = write_package(options.file, options.trial, options.out)
    lines = [f"{package.folder}: {', '.join(package.files)}", compiled_text(package), "README.md says how to start it."]
    print_result(package, Text("\n".join(lines)), options.json)
    return 0

"""`tune report`: a study's report as a page to look at, or as text to pass on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tuner.commands.arguments import Subparsers, add_format, add_study
from tuner.commands.streams import note_running
from tuner.errors import BadInput
from tuner.files import absent

FORMATS = ("html", "md", "json")
DEFAULT = "html"
SUFFIXES = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md", ".json": "json"}
"""The format that a suffix of --output means. Other suffixes mean none."""

SUMMARY = "write the report of a study as one HTML file, or as Markdown or JSON"
DESCRIPTION = """\
Write the report of a study, from its folder alone: the front as a plot, the
chosen configuration and what its settings are worth, images beside the
baseline's, where the time goes, every trial with its reason, the machine.

html  one file that opens without a network: report.html in the study's folder,
      where a study writes it at its end
md    a few tables for a pull request or a chat, on standard output
json  the whole record, on standard output
"""
EXAMPLES = """\
examples:
  tune report                                    the newest study
  tune report demo-9ec7c40c --output demo.html   somewhere else
  tune report demo-9ec7c40c --output demo.md     Markdown, by the suffix
  tune report demo-9ec7c40c --format md
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the arguments of `tune report`."""
    parser = subparsers.add_parser("report", help=SUMMARY, description=DESCRIPTION, epilog=EXAMPLES)
    add_study(parser)
    add_format(parser, FORMATS, f"that of --output's suffix, else {DEFAULT}", "format of the report")
    parser.add_argument(
        "--output", type=Path, metavar="FILE",
        help="file to write (default: report.html in the study's folder; md and json go to standard output)",
    )  # fmt: skip
    parser.set_defaults(run=run, format=None)


def run(options: argparse.Namespace) -> int:
    """Write a study's report."""
    from tuner.report.renderers import RENDERERS
    from tuner.report.studies import find_study
    from tuner.report.study_report import read_report
    from tuner.report.written import write_page, write_text

    check_output(options.output)
    format_ = find_format(options.format, options.output)
    folder = find_study(options.study, options.out)
    note_running(folder)
    report = read_report(folder)
    if format_ == "html":
        sys.stdout.write(f"{write_page(report, options.output)}\n")
    elif options.output is not None:
        write_text(options.output, RENDERERS[format_]().render(report))
        sys.stdout.write(f"{options.output}\n")
    else:
        sys.stdout.write(RENDERERS[format_]().render(report))
    sys.stdout.flush()
    return 0


def find_format(asked: str | None, file: Path | None) -> str:
    """Return the format that is asked for, else that of the file's suffix. Raises BadInput if they contradict."""
    named = SUFFIXES.get(file.suffix.lower()) if file else None
    if asked and named and asked != named:
        raise BadInput(f"--output {file}: its suffix is that of {named}, not of --format {asked}; change one of them")
    return asked or named or DEFAULT


def check_output(file: Path | None) -> None:
    """Raise BadInput unless a file can be there."""
    if file is None:
        return
    if not file.parent.is_dir():
        raise BadInput(f"--output {file}: {file.parent}: {absent(file.parent, 'folder')}")
    if file.is_dir():
        raise BadInput(f"--output {file}: a file is expected here, and this is a folder")

"""`tune trace`: check a profiler trace for graph breaks and device syncs."""

from __future__ import annotations

import argparse
from pathlib import Path

from tuner.commands.arguments import Subparsers, add_json, milliseconds
from tuner.commands.output import print_result
from tuner.errors import BadInput

SUMMARY = "check a profiler trace for graph breaks, device syncs and GPU idle time"
DESCRIPTION = """\
Check a trace of torch.profiler, from any program, plain or gzipped. Report
graph breaks, recompiles and device syncs with the GPU idle time that each
causes, and where the time goes.

Where a trial of a study has two traces, give NAME.trace.json.gz, the whole one.
NAME.pt.trace.json.gz is cut down to the denoising steps for TensorBoard, which
loads every file with that ending.
"""
EXIT_CODE_HELP = """\
exit code:
  0  clean
  1  rejected
  2  not a readable trace
  3  inconclusive: the trace does not show what must be checked
"""
EXIT_CODES = {"clean": 0, "rejected": 1, "inconclusive": 3}


def add_parser(subparsers: Subparsers) -> None:
    """Add the arguments of `tune trace`."""
    parser = subparsers.add_parser("trace", help=SUMMARY, description=DESCRIPTION, epilog=EXIT_CODE_HELP)
    parser.add_argument("file", type=Path, metavar="FILE", help="a trace such as NAME.trace.json.gz")
    parser.add_argument(
        "--max-idle-ms", type=milliseconds, default=0.0, metavar="MS",
        help="accept breaks and syncs that together leave the GPU idle for at most MS per step (default: 0)",
    )  # fmt: skip
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the findings of a trace. Returns the exit code of its verdict."""
    from tuner.commands.trace.report import examine_trace
    from tuner.commands.trace.text import TraceText

    require_file(options.file)
    examined = examine_trace(options.file, options.max_idle_ms)
    print_result(examined.report, TraceText(examined), options.json)
    return EXIT_CODES[examined.report.verdict.status]


def require_file(path: Path) -> None:
    """Raise BadInput for a folder, naming a trace in it if it has one, which is a whole one where there are two."""
    if path.is_dir():
        traces = path.rglob("*.trace.json*")
        found = min(traces, key=lambda file: (file.parent, ".pt." in file.name, file.name), default=None)
        hint = f"name a trace in it, such as {found}" if found else "it has no *.trace.json.gz"
        raise BadInput(f"{path}: a trace is expected here, and this is a folder; {hint}")

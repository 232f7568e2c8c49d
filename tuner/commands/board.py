"""`tune board`: show a study in TensorBoard."""

from __future__ import annotations

import argparse

from tuner.commands.arguments import Subparsers, add_study, port
from tuner.errors import Unavailable

SUMMARY = "show a study in the browser with TensorBoard"
DESCRIPTION = """\
Start TensorBoard on 127.0.0.1 with a study: a table of all trials, their
images beside the baseline's, the gate's verdicts, and the traces. Needs no
internet. Stop it with Ctrl-C.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the arguments of `tune board`."""
    parser = subparsers.add_parser("board", help=SUMMARY, description=DESCRIPTION)
    add_study(parser)
    parser.add_argument("--port", type=port, metavar="N", help="port to serve on (default: first free, from 6006 on)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve a study with TensorBoard until Ctrl-C."""
    from tuner.board import start
    from tuner.records.text import visible

    folder = start.find_log_folder(options.study, options.out)
    try:
        with start.serve(folder, start.free_port(options.port)) as (address, process):
            print(visible(start.guide(folder, address)), flush=True)
            process.wait()
            raise Unavailable("TensorBoard exited on its own; start `tune board` again")
    except KeyboardInterrupt:
        print()
    return 0

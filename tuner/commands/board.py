"""`tune board`: show a study with TensorBoard."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tuner.errors import Unavailable

if TYPE_CHECKING:
    pass


def show_board(options: argparse.Namespace) -> int:
    """`tune board`: TensorBoard with a study, until Ctrl-C."""
    from tuner.board import start

    folder = start.find_log_folder(options.study, options.out)
    try:
        with start.serve(folder, start.free_port(options.port)) as (address, process):
            print(start.guide(folder, address), flush=True)
            process.wait()
            raise Unavailable("TensorBoard ended by itself")
    except KeyboardInterrupt:
        print()
    return 0

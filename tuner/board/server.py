"""TensorBoard on 127.0.0.1, as the process that `start` starts: it prints its address, and ends with its parent."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, BinaryIO

from tuner.board import frontend
from tuner.board.plugin import MendedProfiler


def main(folder: str, port: str, scratch: str) -> int:
    """Serve a folder until standard input ends, then remove the folder of temporary files."""
    threading.Thread(target=end_with_parent, args=(scratch,), daemon=True).start()

    from tensorboard import program

    board = program.TensorBoard(plugins=plugins(), assets_zip_provider=pages())
    board.configure(argv=["tensorboard", "--logdir", folder, "--host", "127.0.0.1", "--port", port])
    try:
        print(board.launch(), flush=True)
    except program.TensorBoardServerException as error:
        print(error.msg, file=sys.stderr)
        return 2
    signal.pause()
    return 0


def plugins() -> list[Any]:
    """Return TensorBoard's plugins and the installed ones, and ours even if the package is not installed."""
    from tensorboard import default
    from tensorboard.plugins.hparams.backend_context import Context

    Context.experiment_from_metadata = frontend.in_our_order(Context.experiment_from_metadata)
    installed = frontend.opens_on_hparams(default.get_plugins())
    return installed if MendedProfiler in installed else [*installed, MendedProfiler]


def pages() -> Callable[[], BinaryIO] | None:
    """Return what opens the archive of TensorBoard's pages; None where TensorBoard has none."""
    from tensorboard import assets

    original = assets.get_default_assets_zip_provider()
    return None if original is None else lambda: frontend.assets(original)


def end_with_parent(scratch: str) -> None:
    """Kill this process group when standard input ends; nothing here has anything to save.

    The parent may have been killed, so this process removes the folder of temporary files.
    """
    sys.stdin.buffer.read()
    shutil.rmtree(scratch, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))

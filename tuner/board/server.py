"""TensorBoard on 127.0.0.1, as the process that `start` starts: it prints its address, and ends with its parent."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from typing import Any

from tuner.board.plugin import MendedProfiler


def main(folder: str, port: str, scratch: str) -> int:
    """Serve a folder until standard input ends, and the folder of temporary files with it."""
    threading.Thread(target=end_with_parent, args=(scratch,), daemon=True).start()

    from tensorboard import program

    board = program.TensorBoard(plugins=plugins())
    board.configure(argv=["tensorboard", "--logdir", folder, "--host", "127.0.0.1", "--port", port])
    try:
        print(board.launch(), flush=True)
    except program.TensorBoardServerException as error:
        print(error.msg, file=sys.stderr)
        return 2
    signal.pause()
    return 0


def plugins() -> list[Any]:
    """TensorBoard's own and the installed ones. Ours is not among them where the package was not installed."""
    from tensorboard import default

    found = default.get_plugins()
    return found if MendedProfiler in found else [*found, MendedProfiler]


def end_with_parent(scratch: str) -> None:
    """End at the end of standard input, with all that the plugin started: nothing here has anything to save.

    The parent may have been killed, so the folder of temporary files goes from here.
    """
    sys.stdin.buffer.read()
    shutil.rmtree(scratch, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))

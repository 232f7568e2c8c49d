"""The standard streams of a command: closed ones, and those that nobody reads or that are full."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuner.errors import BadInput

BROKEN_PIPE = 141
"""The exit code of a command whose output nobody reads any more, as shells have it."""


def replace_closed() -> bool:
    """Put the null device in place of closed streams, whose numbers files of ours would get. Return whether any was
    standard output."""
    for descriptor in range(3):
        if not _is_open(descriptor):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number
    was_closed = sys.stdout is None
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return was_closed


@contextmanager
def written_output() -> Iterator[None]:
    """Write what was printed before the context ends.

    Raises SystemExit if nobody reads it any more, BadInput if it cannot be written.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        raise SystemExit(BROKEN_PIPE) from None
    except OSError as error:
        _drop_output()
        raise BadInput(f"standard output: {error.strerror}") from None


def _drop_output() -> None:
    """Drop what was printed: the interpreter would try to write it again when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def note_running(folder: Path) -> None:
    """Tell that the study in a folder is run by another process now, if one does."""
    from tuner.files import StudyFolder
    from tuner.records.study_lock import holder

    found = holder(StudyFolder(folder).lock)
    if found is not None:
        note(f"{folder}: {found}: this is what is known by now")


def note(text: str) -> None:
    """Tell on standard error what is measured next."""
    print(f"tune: {text}", file=sys.stderr, flush=True)

"""The name of what went wrong in a worker."""

from __future__ import annotations

import errno
import os
import textwrap

from tuner.errors import Unavailable
from tuner.knobs import NoEffect
from tuner.quality.guards import InvalidImage
from tuner.records.outcome import FailureKind
from tuner.timing.measure import Throttled

MAX_LINE = 400
"""Characters of a failure's message. The package's own hints are shorter."""


class CompiledWhileTimed(Exception):
    """A timing that contains a compilation is no latency."""


def name_failure(error: BaseException) -> FailureKind:
    """Return the kind of failure that an exception means."""
    text = str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory"
    if isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text):
        return "out of memory"
    if any(os.strerror(number) in text for number in (errno.ENOSPC, errno.EDQUOT)):  # also in a compiler's words
        return "disk full"
    by_type: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], FailureKind], ...] = (
        (KeyboardInterrupt, "interrupted"),
        (NoEffect, "no effect"),
        (InvalidImage, "invalid image"),
        (CompiledWhileTimed, "recompile"),
        (Throttled, "throttled"),
        ((Unavailable, ImportError), "unavailable"),
    )
    for kind, name in by_type:
        if isinstance(error, kind):
            return name
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "triton")):
        return "compile error"
    return "error"


def one_line(error: BaseException) -> str:
    """Return the first non-empty line of an error, prefixed with its type unless the type is the project's."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    plain = isinstance(error, (NoEffect, InvalidImage, CompiledWhileTimed, Throttled, Unavailable))
    return textwrap.shorten(line if plain else f"{type(error).__name__}: {line}", MAX_LINE, placeholder=" ...")

"""Marking in a trace the Python line of every wait for the GPU. Only the worker imports this: it needs torch.

The profiler's own stacks name the line at which a function begins, not the line that waits. torch calls these
callbacks right before it waits, so an annotation made there lands inside the operator that waits.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import FrameType

import torch
from torch.cuda import _gpu_trace
from torch.profiler import record_function

from tuner.trace import sources
from tuner.trace.read import SYNC_LINE


@contextlib.contextmanager
def recorded() -> Iterator[None]:
    """Annotate each wait with its line for as long as this is open; without a GPU there is nothing to annotate."""
    registries = (
        _gpu_trace.DeviceSynchronizationCallbacks,
        _gpu_trace.StreamSynchronizationCallbacks,
        _gpu_trace.EventSynchronizationCallbacks,
    )
    if torch.cuda.is_available():
        torch._C._activate_gpu_trace()
    # Under dynamo the callback would be compiled itself, in the middle of what it watches.
    annotate = torch.compiler.disable(_annotate)
    for registry in registries:
        registry.add_callback(annotate)
    try:
        yield
    finally:
        for registry in registries:
            registry.callback_list.remove(annotate)


def _annotate(*handle: int) -> None:
    line = sources.innermost(_frames(sys._getframe()))
    with record_function(SYNC_LINE + line.replace('"', "'")):
        pass


def _frames(frame: FrameType | None) -> Iterator[tuple[str, int | None]]:
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back

"""Marking in a trace the Python line of every wait for the GPU. Only the worker imports this: it needs torch.

The profiler's own stacks name the line at which a function begins, not the line that waits. torch calls these
callbacks right before it waits, so an annotation made there lands inside the operator that waits. It calls none before
a copy that was asked not to wait and does, so every copy gets an annotation around it.
"""

from __future__ import annotations

import contextlib
import functools
import linecache
import re
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch.cuda import _gpu_trace
from torch.profiler import record_function

from tuner.trace import sources
from tuner.trace.read import COPY_LINE, SYNC_LINE

Linemaps = Mapping[str, Sequence[Any]]
"""By file of generated code: the first lines of its parts, and the stack traces that these were made from."""

_COPIES = ("copy_", "to", "cpu", "cuda")
_STACK_FRAME = re.compile(r'File "(.+)", line (\d+), in .+\n +(.+)\n')


@contextlib.contextmanager
def annotate_waits() -> Iterator[None]:
    """Annotate each wait with its line for as long as this is open; without a GPU there is nothing to annotate.

    Open it before the profiler, which cannot name functions of modules that are imported while it watches.
    """
    from torch._inductor.codecache import PyCodeCache

    registries = (
        _gpu_trace.DeviceSynchronizationCallbacks,
        _gpu_trace.StreamSynchronizationCallbacks,
        _gpu_trace.EventSynchronizationCallbacks,
    )
    if torch.cuda.is_available():
        torch._C._activate_gpu_trace()

    def annotate(*handle: int) -> None:
        _annotate(PyCodeCache.linemaps)

    # Under dynamo the callback would be compiled itself, in the middle of what it watches.
    callback = torch.compiler.disable(annotate)
    with contextlib.ExitStack() as undo:
        for registry in registries:
            registry.add_callback(callback)
            undo.callback(registry.callback_list.remove, callback)
        for name in _COPIES:
            undo.callback(_restore, name, vars(torch.Tensor).get(name))
            setattr(torch.Tensor, name, _annotated(getattr(torch.Tensor, name), PyCodeCache.linemaps))
        yield


def _restore(name: str, own: Any) -> None:
    """Give tensors back a method of their own, or that which they inherit where they had none."""
    if own is not None:
        setattr(torch.Tensor, name, own)
    elif name in vars(torch.Tensor):
        delattr(torch.Tensor, name)


def _annotate(linemaps: Linemaps) -> None:
    if not _is_tracing():
        with record_function(SYNC_LINE + _line(linemaps)):
            pass


def _is_tracing() -> bool:
    """Return whether a compiler would take an annotation for a part of what it compiles: dynamo, or those behind it."""
    return torch.compiler.is_compiling() or bool(torch._C._len_torch_dispatch_stack())


def _annotated(copy: Callable[..., Any], linemaps: Linemaps) -> Callable[..., Any]:
    @functools.wraps(copy)
    def noted(*arguments: Any, **named: Any) -> Any:
        if _is_tracing():
            return copy(*arguments, **named)
        with record_function(COPY_LINE + _line(linemaps)):
            return copy(*arguments, **named)

    return noted


def _line(linemaps: Linemaps) -> str:
    return sources.innermost(_frames(sys._getframe(), linemaps)).replace('"', "'")


def _frames(frame: FrameType | None, linemaps: Linemaps) -> Iterator[tuple[str, int | None]]:
    """Yield the stack from a frame on; before a line of generated code, the model's lines that it was made from."""
    while frame is not None:
        file, number = frame.f_code.co_filename, frame.f_lineno
        yield from _origin(file, number, linemaps)
        yield file, number
        frame = frame.f_back


def _origin(file: str, number: int, linemaps: Linemaps) -> list[tuple[str, int]]:
    """Return the lines that inductor made a line of code from, the innermost first.

    It keeps them with the code for other processes: none are given if one of them has since become another line.
    """
    starts, stacks = linemaps.get(file) or ((), ())
    place = bisect_right(starts, number) - 1
    frames = _STACK_FRAME.findall(stacks[place] or "") if place >= 0 else []
    if any(linecache.getline(origin, int(line)).strip() != text for origin, line, text in frames):
        return []
    return [(origin, int(line)) for origin, line, _ in reversed(frames)]

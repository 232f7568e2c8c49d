"""Marks the Python line of every wait for the GPU in a trace. Only the worker imports this: it needs torch.

The profiler's own stacks name the line at which a function begins, not the line that waits. torch calls these
callbacks right before it waits, so an annotation made there lands inside the operator that waits. It does not call
them before a non-blocking copy that waits all the same, so every copy gets an annotation around it.
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
from tuner.trace.events import COPY_LINE, SYNC_LINE

Linemaps = Mapping[str, Sequence[Any]]
"""For each file of generated code, the first lines of its parts and the stack traces of their source."""

_COPIES = ("copy_", "to", "cpu", "cuda")
_STACK_FRAME = re.compile(r'File "(.+)", line (\d+), in .+\n +(.+)\n')


@contextlib.contextmanager
def annotate_waits() -> Iterator[None]:
    """Annotate each wait with its line inside the context. Without a GPU this does nothing.

    Enter it before the profiler, which cannot name functions of modules that are imported while it records.
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

    # Keep dynamo from compiling the callback into the code that it annotates.
    callback = torch.compiler.disable(annotate)
    with contextlib.ExitStack() as undo:
        for registry in registries:
            registry.add_callback(callback)
            undo.callback(registry.callback_list.remove, callback)
        for name in _COPIES:
            undo.callback(_restore, name, vars(torch.Tensor).get(name))
            setattr(torch.Tensor, name, _annotated(getattr(torch.Tensor, name), PyCodeCache.linemaps))
        yield


def _restore(name: str, original: Any) -> None:
    """Restore a method of `torch.Tensor`, or delete it if the class had only inherited it."""
    if original is not None:
        setattr(torch.Tensor, name, original)
    elif name in vars(torch.Tensor):
        delattr(torch.Tensor, name)


def _annotate(linemaps: Linemaps) -> None:
    if not _is_tracing():
        with record_function(SYNC_LINE + _line(linemaps)):
            pass


def _is_tracing() -> bool:
    """Return whether dynamo or a later compiler stage is tracing, and would trace an annotation too."""
    return torch.compiler.is_compiling() or bool(torch._C._len_torch_dispatch_stack())


def _annotated(copy: Callable[..., Any], linemaps: Linemaps) -> Callable[..., Any]:
    @functools.wraps(copy)
    def annotated(*arguments: Any, **named: Any) -> Any:
        if _is_tracing():
            return copy(*arguments, **named)
        with record_function(COPY_LINE + _line(linemaps)):
            return copy(*arguments, **named)

    return annotated


def _line(linemaps: Linemaps) -> str:
    return sources.innermost(_frames(sys._getframe(), linemaps)).replace('"', "'")


def _frames(frame: FrameType | None, linemaps: Linemaps) -> Iterator[tuple[str, int | None]]:
    """Yield the stack from a frame outwards. The model's lines come before the generated code made from them."""
    while frame is not None:
        file, number = frame.f_code.co_filename, frame.f_lineno
        yield from _origin(file, number, linemaps)
        yield file, number
        frame = frame.f_back


def _origin(file: str, number: int, linemaps: Linemaps) -> list[tuple[str, int]]:
    """Return the source lines of a line that inductor generated, the innermost first.

    Inductor caches them across processes. Return an empty list if one of the lines has changed since.
    """
    starts, stacks = linemaps.get(file) or ((), ())
    place = bisect_right(starts, number) - 1
    frames = _STACK_FRAME.findall(stacks[place] or "") if place >= 0 else []
    if any(linecache.getline(origin, int(line)).strip() != text for origin, line, text in frames):
        return []
    return [(origin, int(line)) for origin, line, _ in reversed(frames)]

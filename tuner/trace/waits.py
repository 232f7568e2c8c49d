"""Finds where the CPU waits for the GPU in a trace. Pure."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from math import inf

from tuner.trace import sources
from tuner.trace.enclosing import EnclosingEvent
from tuner.trace.events import COPY_LINE, RUNTIME, SYNC_LINE, Event
from tuner.trace.read import Trace

_WAIT_CALL = re.compile(
    r"(?:"
    r"(?:cuda|hip)(?:(?:Stream|Device|Event)Synchronize|HostUnregister|Free|FreeHost|HostFree"
    r"|Memcpy(?:2D|3D|WithStream|DtoH|HtoD|2DToArray|2DFromArray|ToArray|FromArray|AtoH|HtoA|Param2D|ToSymbol|FromSymbol)?)"
    r"|cu(?:(?:Stream|Ctx|Event)Synchronize|MemFree|MemFreeHost|MemHostUnregister"
    r"|Memcpy(?:DtoH|HtoD|2D|2DUnaligned|3D)?)"
    r")(?:_v\d+)?(?:_ptsz|_ptds|_spt)?"
)
"""The calls that wait by their contract, in any version and for any default stream. Two groups wait only under
conditions that a trace does not show. Calls that free or unregister memory wait while the GPU still has work; torch's
allocator makes them only when it is out of memory. Copies wait unless they are within the GPU or so small (64 kB) that
the driver stages them. Allocations are left out: they order the work of streams and seldom make the CPU wait."""

_LAUNCH = re.compile(
    r"(?:cuda|cu|hip)(?:Ext|Module|ExtModule|HccModule|Drv|Graph)?Launch"
    r"|urEnqueueKernelLaunch|urEnqueueCooperativeKernelLaunch"
)
_GRAPH_LAUNCH = re.compile(r"(?:cuda|cu|hip)GraphLaunch")
_COPY_CALL = re.compile(r"(?:cuda|hip)MemcpyAsync|cuMemcpyDtoHAsync|hipMemcpyDtoHAsync")
_STAGED_BYTES = 1 << 16
_LONGEST = 300


@dataclass(frozen=True)
class Wait:
    """A call, host[index], that made the CPU wait, with its operator, its reason and, if known, its source line.

    `calls` are that call and the other half of a copy and the wait for it, if there is one, in order of time.
    """

    index: int
    operator: str
    reason: str
    source: str
    calls: tuple[int, ...]


def find_waits(trace: Trace, indices: Sequence[int] | None = None) -> list[Wait]:
    """Return the waits among the host events `indices`, by default those inside the steps."""
    copies = {event.correlation: event for event in trace.device if event.cat == "gpu_memcpy"}
    waits: dict[int, tuple[int, str]] = {}
    last_copy: dict[int, tuple[int, str]] = {}
    named = trace.indices_by_name if indices is None else trace.group_by_name(indices)
    for index in sorted(chain.from_iterable(named[name] for name in named if is_wait_call(name) or "emcpy" in name)):
        event = trace.host[index]
        if event.cat not in RUNTIME:
            continue
        operator = _operator_around(trace, index)
        copied_by = copies.get(event.correlation) if event.correlation else None
        copy = copied_by.name if copied_by else ""
        if _is_wait(trace, index):
            # A copy and the next wait in the same operator count as one wait.
            begun, copied = (index, copy) if copy else last_copy.pop(operator, (index, ""))
            is_blocking = waits.pop(begun, None) is not None
            waits[index] = begun if is_blocking else index, copied
        elif copied_by:
            last_copy[operator] = index, copy
            if _COPY_CALL.match(event.name) and _blocks(trace, event, copied_by):
                waits[index] = index, copy
    return _named(trace, named, waits)


def _named(trace: Trace, named: Mapping[str, Sequence[int]], found: Mapping[int, tuple[int, str]]) -> list[Wait]:
    """Return waits, each named after the call in which waits of its cause spend most time: the copy or its wait."""
    path, source = _Path(trace), _Source(trace, named)
    causes = {index: (path(index) or trace.host[index].name, copy, source(index)) for index, (_, copy) in found.items()}
    longer: Counter[tuple[str, str, str]] = Counter()
    for index, (begun, _) in found.items():
        longer[causes[index]] += round(1000 * (trace.host[begun].dur - trace.host[index].dur))
    waits = []
    for index, (begun, copy) in found.items():
        operator, _, line = causes[index]
        call = begun if longer[causes[index]] > 0 else index
        calls = (index,) if begun == index else (begun, index)
        waits.append(Wait(call, operator, _why(trace.host[call].name, copy), line, calls))
    return waits


def without_profiler_waits(trace: Trace, waits: Iterable[Wait]) -> list[Wait]:
    """Return the waits without the profiler's own, which lie at both ends of a trace and outside of operators."""
    launches = [trace.host[i].ts for name, indices in trace.indices_by_name.items() if is_launch(name) for i in indices]
    first, last = min(launches, default=0.0), max(launches, default=0.0)
    return [
        wait
        for wait in waits
        if wait.operator != trace.host[wait.index].name or first < trace.host[wait.index].ts < last
    ]


@lru_cache(4096)
def is_launch(name: str) -> bool:
    """Return whether a call launches work, a kernel or a graph."""
    return _LAUNCH.match(name) is not None


@lru_cache(4096)
def is_graph_launch(name: str) -> bool:
    """Return whether a call launches a graph."""
    return _GRAPH_LAUNCH.match(name) is not None


@lru_cache(4096)
def is_wait_call(name: str) -> bool:
    """Return whether a call waits for the GPU by its contract."""
    return _WAIT_CALL.fullmatch(name) is not None


def _is_wait(trace: Trace, index: int) -> bool:
    parent = trace.parents[index]
    inside_a_wait = parent >= 0 and is_wait_call(trace.host[parent].name)
    return is_wait_call(trace.host[index].name) and not inside_a_wait


def _blocks(trace: Trace, call: Event, copy: Event) -> bool:
    """Return whether a non-blocking copy made the CPU wait for the GPU.

    A copy to pageable memory returns when it is done. A copy from pageable memory returns when all of it is staged, and
    one that is too large for the staging buffer begins only when the GPU is free. If the GPU was idle, the CPU did not
    wait for it.
    """
    if "Pageable" not in copy.name:
        return False
    is_staged = copy.bytes <= _STAGED_BYTES or call.end <= copy.ts
    return "DtoH" in copy.name or ("HtoD" in copy.name and not is_staged and _was_busy(trace, call, copy))


def _was_busy(trace: Trace, call: Event, copy: Event) -> bool:
    """Return whether GPU work other than the copy itself ended between the call and the copy."""
    since, until = (bisect_right(trace.gpu_work_ends, (time, inf)) for time in (call.ts, copy.ts))
    return any(correlation != copy.correlation for _, correlation in trace.gpu_work_ends[since:until])


def _why(call: str, copy: str) -> str:
    return f"the CPU waits for the GPU in {call}" + (f" for {copy}" if copy else "")


def _operator_around(trace: Trace, index: int) -> int:
    """Return the index of the innermost operator around a call, or of the call if it is outside of operators."""
    parent = trace.parents[index]
    return parent if parent >= 0 and trace.host[parent].cat == "cpu_op" else index


class _Path:
    """The path of operators around a call, the innermost last. A long path is cut at the outer end."""

    def __init__(self, trace: Trace) -> None:
        self._host = trace.host
        self._around = EnclosingEvent(trace, self._is_operator)

    def __call__(self, index: int) -> str:
        path = ""
        while (index := self._around(index)) >= 0 and len(path) < _LONGEST:
            path = self._host[index].name[:_LONGEST] + (f" > {path}" if path else "")
        return path[-_LONGEST:]

    def _is_operator(self, index: int) -> bool:
        return self._host[index].cat == "cpu_op" and "::" in self._host[index].name


class _Source:
    """The Python line of a wait, if the trace was captured with stacks."""

    def __init__(self, trace: Trace, named: Mapping[str, Sequence[int]]) -> None:
        self._trace, self._host = trace, trace.host
        self._lines = _Lines(trace, named)
        self._around = EnclosingEvent(trace, lambda index: bool(self._of_stack(index)))
        self._copy = EnclosingEvent(trace, lambda index: trace.host[index].name.startswith(COPY_LINE))

    def __call__(self, index: int) -> str:
        annotated = self._lines.before(index) or self._of_copy(self._copy(index))
        return annotated or self._of_stack(self._around(index)) or self._trace.python.line(self._host[index])

    def _of_copy(self, index: int) -> str:
        return _line(self._host[index], COPY_LINE) if index >= 0 else ""

    def _of_stack(self, index: int) -> str:
        return sources.from_call_stack(self._host[index].stack) if index >= 0 else ""


class _Lines:
    """The lines of annotations, each of which comes right before its wait."""

    def __init__(self, trace: Trace, named: Mapping[str, Sequence[int]]) -> None:
        self._trace = trace
        self._lines = sorted(chain.from_iterable(named[name] for name in named if name.startswith(SYNC_LINE)))
        self._waits = sorted(chain.from_iterable(named[name] for name in named if is_wait_call(name)))

    def before(self, index: int) -> str:
        """Return the line annotated before a wait, if no other wait of the thread is in between."""
        line, wait = _last_before(self._lines, index), _last_before(self._waits, index)
        if line <= wait:
            return ""
        event, around = self._trace.host[line], self._trace.host[index]
        is_same_thread = (event.pid, event.tid) == (around.pid, around.tid)
        return _line(event, SYNC_LINE) if is_same_thread else ""


def _line(annotation: Event, mark: str) -> str:
    """Return the line of an annotation. The path of a file in a package begins at the package."""
    return sources.line(annotation.name.removeprefix(mark), None)


def _last_before(indices: Sequence[int], index: int) -> int:
    """Return the last of the ordered `indices` before `index`, or -1."""
    place = bisect_left(indices, index)
    return indices[place - 1] if place else -1

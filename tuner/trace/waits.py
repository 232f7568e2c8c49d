"""Where the CPU waits for the GPU in a trace. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from tuner.trace import sources
from tuner.trace.read import RUNTIME, SYNC_LINE, Trace

WAITS = frozenset(
    f"{vendor}{call}"
    for vendor, calls in {
        "cuda": ("StreamSynchronize", "DeviceSynchronize", "EventSynchronize", "Memcpy"),
        "cu": ("StreamSynchronize", "CtxSynchronize", "EventSynchronize", "MemcpyDtoH_v2", "MemcpyHtoD_v2"),
        "hip": ("StreamSynchronize", "DeviceSynchronize", "EventSynchronize", "Memcpy", "MemcpyWithStream"),
    }.items()
    for call in calls
)
LAUNCHES = ("cudaLaunch", "cuLaunch", "hipLaunch", "hipExtLaunch", "hipExtModuleLaunch", "hipModuleLaunch")
GRAPH_LAUNCHES = ("cudaGraphLaunch", "cuGraphLaunch", "hipGraphLaunch")
_COPIES = frozenset({"cudaMemcpyAsync", "hipMemcpyAsync", "cuMemcpyDtoHAsync_v2"})
_LONGEST = 300


@dataclass(frozen=True)
class Wait:
    """A call, host[index], that made the CPU wait: in which operator, why, and at which line if the trace knows."""

    index: int
    operator: str
    reason: str
    source: str


def waits(trace: Trace, indices: Sequence[int] | None = None) -> list[Wait]:
    """The waits among some events of the host, those inside the steps if none are given: one for each operator."""
    copies = {event.correlation: event.name for event in trace.device if event.cat == "gpu_memcpy"}
    calls: dict[int, int] = {}
    copied: dict[int, str] = {}
    named = trace.names if indices is None else trace.by_name(indices)
    lines = _Lines(trace, named)
    for index in sorted(chain.from_iterable(named[name] for name in named if name in WAITS or "emcpy" in name)):
        event = trace.host[index]
        if event.cat not in RUNTIME:
            continue
        # A copy and the wait for it are one thing when one operator does both.
        group = _operator_around(trace, index)
        copy = copies.get(event.correlation, "") if event.correlation else ""
        if copy:
            copied[group] = copy
        if _is_wait(trace, index) or (event.name in _COPIES and _blocks(copy)):
            calls[group] = index
    return [
        Wait(
            index,
            _operator(trace, index),
            _why(trace.host[index].name, copied.get(group, "")),
            _source(trace, index, lines),
        )
        for group, index in calls.items()
    ]


def without_profilers_own(trace: Trace, found: Iterable[Wait]) -> list[Wait]:
    """Without those at either end of a trace that no operator makes: the profiler waits when it starts and stops."""
    launches = [trace.host[i].ts for name, indices in trace.names.items() if is_launch(name) for i in indices]
    first, last = min(launches, default=0.0), max(launches, default=0.0)
    return [
        wait
        for wait in found
        if wait.operator != trace.host[wait.index].name or first < trace.host[wait.index].ts < last
    ]


def is_launch(name: str) -> bool:
    return name.startswith(LAUNCHES) or name.startswith(GRAPH_LAUNCHES)


def _is_wait(trace: Trace, index: int) -> bool:
    parent = trace.parents[index]
    inside_a_wait = parent >= 0 and trace.host[parent].name in WAITS
    return trace.host[index].name in WAITS and not inside_a_wait


def _blocks(copy: str) -> bool:
    # To pageable memory the driver returns when the copy is done, asked to wait or not; from it, when it is staged.
    return "DtoH" in copy and "Pageable" in copy


def _why(call: str, copy: str) -> str:
    return f"the CPU waits for the GPU in {call}" + (f" for {copy}" if copy else "")


def _operator_around(trace: Trace, index: int) -> int:
    """The index of the innermost operator around a call, or the call's own when Python itself made it."""
    parent = trace.parents[index]
    return parent if parent >= 0 and trace.host[parent].cat == "cpu_op" else index


def _operator(trace: Trace, index: int) -> str:
    around = (trace.host[i] for i in trace.ancestors(index))
    operators = [event.name for event in around if event.cat == "cpu_op" and "::" in event.name]
    return " > ".join(reversed(operators))[:_LONGEST] or trace.host[index].name


def _source(trace: Trace, index: int, lines: _Lines) -> str:
    """The Python line of a wait, if the trace was captured with stacks."""
    return lines.before(index) or next(
        (line for i in trace.ancestors(index) if (line := sources.of_call_stack(trace.host[i].stack))), ""
    )


class _Lines:
    """The lines that annotations name, each right before the wait that is meant."""

    def __init__(self, trace: Trace, named: Mapping[str, list[int]]) -> None:
        self._trace = trace
        self._lines = sorted(chain.from_iterable(named[name] for name in named if name.startswith(SYNC_LINE)))
        self._waits = sorted(chain.from_iterable(named[name] for name in named if name in WAITS))

    def before(self, index: int) -> str:
        """The line before a wait, if no other wait of the thread lies between."""
        line, wait = _last_before(self._lines, index), _last_before(self._waits, index)
        if line <= wait:
            return ""
        event, around = self._trace.host[line], self._trace.host[index]
        is_same_thread = (event.pid, event.tid) == (around.pid, around.tid)
        return event.name.removeprefix(SYNC_LINE) if is_same_thread else ""


def _last_before(indices: Sequence[int], index: int) -> int:
    """The last of some ordered indices before another, -1 if there is none."""
    place = bisect_left(indices, index)
    return indices[place - 1] if place else -1

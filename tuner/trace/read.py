"""A typed reader of Kineto traces: Chrome JSON of torch's profiler, plain or gzipped, with an NVIDIA, AMD or no GPU."""

from __future__ import annotations

import gc
import gzip
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import pairwise
from operator import attrgetter, or_
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
import numpy as np

from tuner.errors import BadInput

STEP_MARKS = ("denoise_step#", "ProfilerStep#")
FIRST_STEP = "first_step"
SCHEDULER = "scheduler step"
MODULE = "nn.Module: "
SYNC_LINE = "sync at "
COPY_LINE = "copy at "
RUNTIME = frozenset({"cuda_runtime", "cuda_driver", "hip_runtime", "xpu_runtime", "privateuse1_runtime"})
HOST = frozenset({"cpu_op", "user_annotation"}) | RUNTIME
DEVICE = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})

_OTHER_PHASES = "BEiICbnesStTfFPMNODVvRcpu"
"""The phases of the Chrome format other than complete events."""

_MAX_BYTES = 1 << 30
_MAX_OBJECTS = 5_000_000
"""An event has two or three objects of some 300 bytes each, so this limit is 1.5 GB."""

_LATEST_US = float(1 << 62)
_EPOCH_US = 1e9
_CHUNK = 1 << 24
_PIECE = 1 << 20

T = TypeVar("T")
M = TypeVar("M", bound="Mark")
_Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Args(msgspec.Struct, gc=False):
    """The arguments of an event that this package reads."""

    correlation: _Count = 0
    bytes: _Count = 0
    stack: str = msgspec.field(default="", name="Call stack")


class Event(msgspec.Struct, gc=False, tag_field="ph", tag="X"):
    """A complete event. Times in microseconds."""

    cat: str = ""
    name: str = ""
    ts: float = 0.0
    dur: float = 0.0
    pid: _Id | str = 0
    tid: _Id | str = 0
    args: Args | None = None

    @property
    def end(self) -> float:
        return self.ts + self.dur

    @property
    def correlation(self) -> int:
        return self.args.correlation if self.args else 0

    @property
    def bytes(self) -> int:
        return self.args.bytes if self.args else 0

    @property
    def stack(self) -> str:
        return self.args.stack if self.args else ""


class _Gpu(msgspec.Struct):
    name: str = ""


# Flows, instants and thread names are a third of a trace, and none of their fields is needed.
_OTHERS = [msgspec.defstruct(f"Phase{ord(p)}", (), tag_field="ph", tag=p, gc=False) for p in _OTHER_PHASES]
_ANY_EVENT: Any = reduce(or_, _OTHERS, Event)
_File: Any = msgspec.defstruct(
    "File",
    [
        ("events", list[_ANY_EVENT], msgspec.field(name="traceEvents")),
        ("gpus", list[_Gpu], msgspec.field(name="deviceProperties", default_factory=list)),
    ],
)


@dataclass(frozen=True)
class Trace:
    """The events of a trace and its marked steps.

    `host` holds the events of the CPU, ordered by thread and time; `parents[i]` is the index of the event around
    host[i], or -1. `device` holds the events of the GPU, ordered by time. `first` is the loop's first step, which the
    verdict does not count. `gpu` is the name of the GPU, or "a GPU" if the trace shows that there was one, else None.
    """

    name: str
    events: int
    gpu: str | None
    steps: tuple[Event, ...]
    first: Event | None
    host: Sequence[Event]
    parents: Sequence[int]
    device: Sequence[Event]
    is_unmarked: bool = False

    def indices_between(self, start: float, end: float) -> list[int]:
        """Return the indices of the host events that begin in a time span."""
        return [index for index, event in enumerate(self.host) if start <= event.ts < end]

    @cached_property
    def step_indices(self) -> list[int]:
        """The indices of the host events that begin inside the marked steps."""
        return self.indices_between(self.steps[0].ts, self.steps[-1].end) if self.steps else []

    def group_by_name(self, indices: Iterable[int]) -> dict[str, list[int]]:
        """Group the indices of host events by name."""
        groups: dict[str, list[int]] = {}
        for index in indices:
            groups.setdefault(self.host[index].name, []).append(index)
        return groups

    @cached_property
    def indices_by_name(self) -> dict[str, list[int]]:
        """The indices of the host events inside the marked steps, by name."""
        return self.group_by_name(self.step_indices)

    @cached_property
    def call_indices(self) -> dict[int, int]:
        """The index of each runtime call inside the steps, by correlation."""
        calls = ((index, self.host[index]) for index in self.step_indices)
        return {
            event.args.correlation: index
            for index, event in calls
            if event.args and event.args.correlation and event.cat in RUNTIME
        }

    @cached_property
    def gpu_work(self) -> list[Event]:
        """The kernels, copies and fills that calls inside the steps started, even if they ran after the steps."""
        calls = self.call_indices
        return [event for event in self.device if event.args and event.args.correlation in calls]

    @cached_property
    def gpu_work_ends(self) -> list[tuple[float, int]]:
        """The end and the correlation of each GPU event, ordered by end."""
        return sorted((event.end, event.correlation) for event in self.device)

    @cached_property
    def kernels(self) -> list[Event]:
        return [event for event in self.gpu_work if event.cat == "kernel"]


def load(path: Path) -> Trace:
    """Read a trace. Raises BadInput if the file is missing, truncated or not a trace."""
    return _without_gc(lambda: _trace(path, _decode(read_bytes(path), path)))


def ensure_steps(trace: Trace) -> Trace:
    """Return the trace. If it has no marked steps, mark all of it as one step."""
    if trace.steps:
        return trace
    events = (*trace.host, *trace.device)
    if not events:
        return replace(trace, is_unmarked=True)
    start, end = min(event.ts for event in events), max(event.end for event in events)
    # Slightly longer, so that it includes an event of no duration at the very end.
    mark = Event(cat="user_annotation", name="the whole trace", ts=start, dur=end - start + 0.001)
    return replace(trace, steps=(mark,), is_unmarked=True)


def _without_gc(work: Callable[[], T]) -> T:
    """Run without the cyclic garbage collector, which takes longer than parsing a large trace."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return work()
    finally:
        if was_enabled:
            gc.enable()


def read_bytes(path: Path) -> bytes | bytearray:
    """Read the JSON text of a trace, plain or gzipped. Raises BadInput if it is missing, truncated or too large."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise BadInput(f"{path}: not a regular file")
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        content = _unzip(path) if zipped else _plain(path)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"{path}: {reason}") from None
    if content is None:
        raise BadInput(f"{path}: larger than {_MAX_BYTES >> 30} GiB uncompressed; trace fewer steps, without stacks")
    if _max_objects(content) > _MAX_OBJECTS:
        raise BadInput(f"{path}: more than {_MAX_OBJECTS:,} JSON objects; trace fewer steps, without stacks")
    return content


def _max_objects(content: bytes | bytearray) -> int:
    """Return an upper bound of the objects in a JSON text. Pieces that fit a cache make it faster than count()."""
    view = np.frombuffer(content, np.uint8)
    pieces = (view[start : start + _PIECE] for start in range(0, len(view), _PIECE))
    return sum(int(np.count_nonzero(piece == ord("{"))) for piece in pieces)


def _plain(path: Path) -> bytes | None:
    return path.read_bytes() if path.stat().st_size <= _MAX_BYTES else None


def _unzip(path: Path) -> bytearray | None:
    """Decompress a gzip file. Return None beyond the limit, which even a small file can exceed."""
    content = bytearray()
    with gzip.open(path) as file:
        while piece := file.read(_CHUNK):
            content += piece
            if len(content) > _MAX_BYTES:
                return None
    return content


def _decode(data: bytes | bytearray, path: Path) -> Any:
    try:
        return msgspec.json.decode(data, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{path}: not a trace: {str(error)[:300]}") from None


def _trace(path: Path, file: Any) -> Trace:
    host, device = _split(file.events)
    host, parents = _nested(_Timed(path, host))
    device = sorted(_Timed(path, device).events, key=attrgetter("ts"))
    marks = [event for event in host if event.cat == "user_annotation"]
    return Trace(
        name=path.name,
        events=len(file.events),
        gpu=_gpu(file, device, host),
        steps=marked_steps(marks),
        first=next((event for event in marks if event.name == FIRST_STEP), None),
        host=host,
        parents=parents,
        device=device,
    )


def _split(events: Iterable[Any]) -> tuple[list[Event], list[Event]]:
    """Split events into those of the CPU and those of the GPU."""
    host: list[Event] = []
    device: list[Event] = []
    take = dict.fromkeys(HOST, host.append) | dict.fromkeys(DEVICE, device.append)
    for event in events:
        if type(event) is Event:
            keep = take.get(event.cat)
            if keep is not None:
                keep(event)
            elif event.name.startswith(MODULE):
                host.append(event)
    return host, device


class _Timed:
    """Events with arrays of their starts and durations. Raises BadInput if a time is impossible."""

    def __init__(self, path: Path, events: list[Event]) -> None:
        self.events = events
        self.start, self.length = self._column("ts"), self._column("dur")
        for times in (self.start, self.length):
            invalid = np.flatnonzero((times < 0) | (times > _LATEST_US))
            if len(invalid):
                problem = "negative time" if times[invalid[0]] < 0 else "time beyond the range of clocks"
                raise BadInput(f"{path}: {events[invalid[0]].name[:80]!r} has a {problem}")
        if self.start.max(initial=0.0) > _EPOCH_US and not self.start.all():
            # torch 2.12 writes some events at time 0, though the other times count from 1970 or from boot.
            self.events = [event for event in events if event.ts]
            self.start, self.length = self._column("ts"), self._column("dur")

    def _column(self, field: str) -> np.ndarray:
        return np.fromiter(map(attrgetter(field), self.events), float, len(self.events))


def _gpu(file: Any, device: Sequence[Event], host: Sequence[Event]) -> str | None:
    """Return the name of the GPU. Calls of its runtime show that there was one, even without GPU events."""
    if file.gpus:
        return file.gpus[0].name or "a GPU"
    return "a GPU" if device or any(event.cat in RUNTIME for event in host) else None


def _nested(timed: _Timed) -> tuple[list[Event], list[int]]:
    """Return the events ordered by thread and time, outer before inner, and the index of each one's parent.

    The parent is the latest event of the thread that began no later and has not ended, or -1.
    """
    host, start, length = timed.events, timed.start, timed.length
    numbers: dict[tuple[int | str, int | str], int] = {}
    threads = [numbers.setdefault((event.pid, event.tid), len(numbers)) for event in host]
    thread = np.array(threads, int)
    order = np.lexsort((-length, start, thread))
    bounds = np.searchsorted(thread[order], range(len(numbers) + 1)).tolist()
    begins, ends = start[order].tolist(), (start + length)[order].tolist()
    parents: list[int] = []
    for first, last in pairwise(bounds):
        around, until = [-1], [math.inf]
        for index, begin, end in zip(range(first, last), begins[first:last], ends[first:last], strict=True):
            while until[-1] <= begin:
                around.pop()
                until.pop()
            parents.append(around[-1])
            around.append(index)
            until.append(end)
    return [host[index] for index in order.tolist()], parents


class Mark(Protocol):
    """An event that may mark a step."""

    name: str
    ts: float


def marked_steps(marks: Sequence[M]) -> tuple[M, ...]:
    """Return the steps with marks of this package, or else those with marks of torch's profiler."""
    by_mark = ([event for event in marks if event.name.startswith(mark)] for mark in STEP_MARKS)
    return tuple(sorted(next(filter(None, by_mark), []), key=attrgetter("ts")))

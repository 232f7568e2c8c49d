"""A typed reader of Kineto traces: the Chrome JSON of torch's profiler, plain or gzipped, of NVIDIA, AMD or no GPU."""

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
"""What else the Chrome format knows besides complete events."""

_MAX_BYTES = 1 << 30
_MAX_OBJECTS = 5_000_000
"""Each event of a file has two or three; with some 300 bytes for each they take 1.5 GB."""

_LATEST_US = float(1 << 62)
_EPOCH_US = 1e9
_CHUNK = 1 << 24
_PIECE = 1 << 20

T = TypeVar("T")
M = TypeVar("M", bound="Mark")
_Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Args(msgspec.Struct, gc=False):
    """Those of an event's arguments that anything here reads."""

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


# Arrows, instants, names of threads: a third of a trace, of which nothing need be kept.
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
    """What a trace tells about its marked steps.

    `host` is what the CPU did, ordered by thread and time, with `parents[i]` the index of the event around host[i]
    or -1. `device` is what the GPU did, ordered by time. `first` is the loop's first step, which no verdict counts.
    `gpu` names the GPU that the profiler saw, or that it must have seen; it is None on a machine without one.
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
        """Return the indices of the host events that begin in a time."""
        return [index for index, event in enumerate(self.host) if start <= event.ts < end]

    @cached_property
    def step_indices(self) -> list[int]:
        """The indices of the host events that begin inside the marked steps."""
        return self.indices_between(self.steps[0].ts, self.steps[-1].end) if self.steps else []

    def group_by_name(self, indices: Iterable[int]) -> dict[str, list[int]]:
        """Group host events by their names, of which there are few."""
        found: dict[str, list[int]] = {}
        for index in indices:
            found.setdefault(self.host[index].name, []).append(index)
        return found

    @cached_property
    def indices_by_name(self) -> dict[str, list[int]]:
        """The host events inside the marked steps, by their names."""
        return self.group_by_name(self.step_indices)

    @cached_property
    def call_indices(self) -> dict[int, int]:
        """From the correlation of each runtime call inside the steps to its index."""
        calls = ((index, self.host[index]) for index in self.step_indices)
        return {
            event.args.correlation: index
            for index, event in calls
            if event.args and event.args.correlation and event.cat in RUNTIME
        }

    @cached_property
    def gpu_work(self) -> list[Event]:
        """Kernels, copies and fills that calls inside the steps started, wherever on the time line they ran."""
        calls = self.call_indices
        return [event for event in self.device if event.args and event.args.correlation in calls]

    @cached_property
    def gpu_work_ends(self) -> list[tuple[float, int]]:
        """When each piece of the GPU's work ended, in order, and its correlation."""
        return sorted((event.end, event.correlation) for event in self.device)

    @cached_property
    def kernels(self) -> list[Event]:
        return [event for event in self.gpu_work if event.cat == "kernel"]


def load(path: Path) -> Trace:
    """Read a trace; BadInput names the file when it is missing, cut off or not a trace."""
    return _without_gc(lambda: _trace(path, _decode(read_bytes(path), path)))


def ensure_steps(trace: Trace) -> Trace:
    """Return the trace, as if all of it were one marked step if its program marks none."""
    if trace.steps:
        return trace
    events = (*trace.host, *trace.device)
    if not events:
        return replace(trace, is_unmarked=True)
    start, end = min(event.ts for event in events), max(event.end for event in events)
    # A little longer, so that what takes no time at the very end is inside too.
    mark = Event(cat="user_annotation", name="the whole trace", ts=start, dur=end - start + 0.001)
    return replace(trace, steps=(mark,), is_unmarked=True)


def _without_gc(work: Callable[[], T]) -> T:
    """Run without the cyclic garbage collector, which costs more than the parsing of a large trace."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return work()
    finally:
        if was_enabled:
            gc.enable()


def read_bytes(path: Path) -> bytes | bytearray:
    """Read a trace's text, plain or gzipped. Raises BadInput if the file is missing, cut off or too large."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise BadInput(f"{path}: not a regular file")
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        found = _unzip(path) if zipped else _plain(path)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"{path}: {reason}") from None
    if found is None:
        raise BadInput(f"{path}: larger than {_MAX_BYTES >> 30} GiB unpacked; trace fewer steps, and without stacks")
    if _objects(found) > _MAX_OBJECTS:
        raise BadInput(f"{path}: more than {_MAX_OBJECTS:,} objects; trace fewer steps, and without stacks")
    return found


def _objects(content: bytes | bytearray) -> int:
    """Count the objects that a JSON text can have at most, in pieces that fit a cache: faster than count()."""
    view = np.frombuffer(content, np.uint8)
    pieces = (view[start : start + _PIECE] for start in range(0, len(view), _PIECE))
    return sum(int(np.count_nonzero(piece == ord("{"))) for piece in pieces)


def _plain(path: Path) -> bytes | None:
    return path.read_bytes() if path.stat().st_size <= _MAX_BYTES else None


def _unzip(path: Path) -> bytearray | None:
    """Decompress a gzip file. Returns None beyond the limit, which a small file can exceed by far."""
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
    """Split events into what the CPU did and what the GPU did."""
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
    """Events with their beginnings and lengths in columns; BadInput names one whose time cannot be."""

    def __init__(self, path: Path, events: list[Event]) -> None:
        self.events = events
        self.start, self.length = self._column("ts"), self._column("dur")
        for times in (self.start, self.length):
            invalid = np.flatnonzero((times < 0) | (times > _LATEST_US))
            if len(invalid):
                problem = "negative time" if times[invalid[0]] < 0 else "time beyond all clocks"
                raise BadInput(f"{path}: {events[invalid[0]].name[:80]!r} has a {problem}")
        if self.start.max(initial=0.0) > _EPOCH_US and not self.start.all():
            # torch 2.12 wrote some events at time 0 in traces that count from 1970 or the start of the machine.
            self.events = [event for event in events if event.ts]
            self.start, self.length = self._column("ts"), self._column("dur")

    def _column(self, field: str) -> np.ndarray:
        return np.fromiter(map(attrgetter(field), self.events), float, len(self.events))


def _gpu(file: Any, device: Sequence[Event], host: Sequence[Event]) -> str | None:
    """Return the GPU's name; a GPU that left no work in the trace was there too, if its runtime was called."""
    if file.gpus:
        return file.gpus[0].name or "a GPU"
    return "a GPU" if device or any(event.cat in RUNTIME for event in host) else None


def _nested(timed: _Timed) -> tuple[list[Event], list[int]]:
    """Return the events by thread and time, outer before inner, and for each the index of the one around it.

    That is the latest of its thread that began no later and has not ended, -1 if there is none.
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
    """Return the marked steps: our own marks before those of torch's profiler."""
    by_mark = ([event for event in marks if event.name.startswith(mark)] for mark in STEP_MARKS)
    return tuple(sorted(next(filter(None, by_mark), []), key=attrgetter("ts")))

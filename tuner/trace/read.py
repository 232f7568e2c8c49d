"""A typed reader of Kineto traces: torch's Chrome JSON, plain or gzipped."""

from __future__ import annotations

import gc
import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from tuner.errors import BadInput

STEP_MARKS = ("denoise_step#", "ProfilerStep#")
SYNC_LINE = "sync at "
HOST = frozenset({"cpu_op", "user_annotation", "cuda_runtime", "cuda_driver"})
DEVICE = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
_MAX_BYTES = 2 << 30

T = TypeVar("T")


class Args(msgspec.Struct, gc=False):
    """Those of an event's arguments that anything here reads."""

    correlation: int = 0
    stack: str = msgspec.field(default="", name="Call stack")


class Event(msgspec.Struct, gc=False):
    """A complete event. Times in microseconds."""

    ph: str = ""
    cat: str = ""
    name: str = ""
    ts: float = 0.0
    dur: float = 0.0
    pid: int | str = 0
    tid: int | str = 0
    args: Args | None = None

    @property
    def end(self) -> float:
        return self.ts + self.dur

    @property
    def correlation(self) -> int:
        return self.args.correlation if self.args else 0

    @property
    def stack(self) -> str:
        return self.args.stack if self.args else ""


class _File(msgspec.Struct, gc=False):
    events: list[Event] = msgspec.field(name="traceEvents")


@dataclass(frozen=True)
class Trace:
    """What a trace tells about its marked steps.

    `host` is what the CPU did, ordered by thread and time, with `parents[i]` the index of the event around host[i]
    or -1. `device` is what the GPU did, ordered by time.
    """

    name: str
    events: int
    steps: tuple[Event, ...]
    host: tuple[Event, ...]
    parents: tuple[int, ...]
    device: tuple[Event, ...]

    def ancestors(self, index: int) -> Iterator[int]:
        """The indices of the events around host[index], innermost first."""
        while (index := self.parents[index]) >= 0:
            yield index

    def in_steps(self) -> list[int]:
        """The indices of the host events that begin inside a marked step."""
        if not self.steps:
            return []
        start, end = self.steps[0].ts, self.steps[-1].end
        return [index for index, event in enumerate(self.host) if start <= event.ts < end]


def load(path: Path) -> Trace:
    """Read a trace; BadInput names the file when it is missing, cut off or not a trace."""
    events = _without_gc(lambda: _decode(_content(path), path))
    return _without_gc(lambda: _trace(path, events))


def _without_gc(work: Callable[[], T]) -> T:
    """Run without the cyclic garbage collector, which costs more than the parsing of a large trace."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return work()
    finally:
        if was_enabled:
            gc.enable()


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"{path}: {reason}") from None
    if len(data) > _MAX_BYTES:
        raise BadInput(f"{path}: larger than {_MAX_BYTES >> 30} GiB unpacked")
    return data


def _decode(data: bytes, path: Path) -> list[Event]:
    try:
        return msgspec.json.decode(data, type=_File).events
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{path}: not a trace: {error}") from None


def _trace(path: Path, events: list[Event]) -> Trace:
    complete = [event for event in events if event.ph == "X"]
    host = [event for event in complete if event.cat in HOST]
    device = [event for event in complete if event.cat in DEVICE]
    _check_times(path, host)
    _check_times(path, device)
    host.sort(key=lambda event: (str(event.pid), str(event.tid), event.ts, -event.dur))
    device.sort(key=lambda event: event.ts)
    return Trace(
        name=path.name,
        events=len(events),
        steps=_steps(host),
        host=tuple(host),
        parents=tuple(_parents(host)),
        device=tuple(device),
    )


def _check_times(path: Path, events: Iterable[Event]) -> None:
    for event in events:
        if event.dur < 0 or event.ts < 0:
            raise BadInput(f"{path}: {event.name[:80]!r} has a negative time")


def _steps(host: Sequence[Event]) -> tuple[Event, ...]:
    marks = [event for event in host if event.cat == "user_annotation" and event.name.startswith(STEP_MARKS)]
    own = [event for event in marks if event.name.startswith(STEP_MARKS[0])]
    return tuple(sorted(own or marks, key=lambda event: event.ts))


def _parents(host: Sequence[Event]) -> list[int]:
    """For each event the one around it on its thread: the latest that began no later and has not ended."""
    parents = []
    stack: list[int] = []
    for index, event in enumerate(host):
        while stack and not _contains(host[stack[-1]], event):
            stack.pop()
        parents.append(stack[-1] if stack else -1)
        stack.append(index)
    return parents


def _contains(outer: Event, inner: Event) -> bool:
    return outer.end > inner.ts and outer.tid == inner.tid and outer.pid == inner.pid

"""Trims a trace to its marked steps, for viewers that load whole files."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from tuner.errors import BadInput
from tuner.trace import content, read
from tuner.trace.events import DEVICE, RUNTIME

_FLOWS = frozenset("stf")
_METADATA = "M"


class _Args(msgspec.Struct, gc=False):
    correlation: int = 0


class _Event(msgspec.Struct, gc=False):
    """The fields of an event of any phase that decide whether it is kept."""

    ph: str = ""
    cat: str = ""
    name: str = ""
    ts: float = 0.0
    dur: float = 0.0
    id: int | str = 0
    args: _Args | None = None

    @property
    def end(self) -> float:
        return self.ts + self.dur

    @property
    def correlation(self) -> int | str:
        return self.id if self.ph in _FLOWS else self.args.correlation if self.args else 0


def trim(path: Path) -> bytes:
    """Return a gzipped trace of the marked steps, the device work that they started, and the names of threads.

    Events keep all their fields. A trace without marked steps is kept whole. Raises BadInput if it is no trace.
    """
    text = content.read_bytes(path)
    try:
        file = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        raws = msgspec.json.decode(file["traceEvents"], type=list[msgspec.Raw])
        events = list(map(msgspec.json.Decoder(_Event).decode, raws))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError) as error:
        raise BadInput(f"{path}: not a trace: {str(error)[:300]}") from None
    steps = read.marked_steps([event for event in events if event.cat == "user_annotation"])
    if steps:
        kept = [raws[index] for index in _kept(events, steps[0].ts, steps[-1].end)]
        text = msgspec.json.encode({**file, "traceEvents": kept})
    return gzip.compress(text, 1, mtime=0)


def _kept(events: Sequence[_Event], start: float, end: float) -> Iterator[int]:
    """Yield the indices of the events to keep."""
    calls = (event for event in events if event.cat in RUNTIME and start <= event.ts < end)
    started = {event.correlation for event in calls} - {0}
    for index, event in enumerate(events):
        is_device_event = event.cat in DEVICE or event.ph in _FLOWS
        is_kept = event.correlation in started if is_device_event else start <= event.ts < end
        if is_kept or event.ph == _METADATA:
            yield index

"""A trace cut down to its marked steps, for viewers that load all of it."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from tuner.trace import read

_FLOWS = frozenset("stf")
_METADATA = "M"


class _Args(msgspec.Struct, gc=False):
    correlation: Any = None


class _Event(msgspec.Struct, gc=False):
    """Of an event of any phase, what decides whether it is kept."""

    ph: str = ""
    cat: str = ""
    ts: float = 0.0
    dur: float = 0.0
    id: Any = None
    args: _Args | None = None

    @property
    def correlation(self) -> Any:
        return self.id if self.ph in _FLOWS else self.args.correlation if self.args else None


def trimmed(path: Path) -> bytes:
    """A gzipped trace with what begins inside its marked steps, the device's work that these started, whenever it ran,
    and the names of threads. Events keep all their fields. All of it where no steps are marked.

    Raises BadInput when the file is not a trace."""
    steps = read.load(path).steps
    if not steps:
        return path.read_bytes()
    file = msgspec.json.decode(gzip.decompress(path.read_bytes()), type=dict[str, msgspec.Raw])
    events = msgspec.json.decode(file["traceEvents"], type=list[msgspec.Raw])
    kept = list(_kept(events, steps[0].ts, steps[-1].end))
    return gzip.compress(msgspec.json.encode({**file, "traceEvents": kept}), 1, mtime=0)


def _kept(raws: Iterable[msgspec.Raw], start: float, end: float) -> Iterator[msgspec.Raw]:
    decoder = msgspec.json.Decoder(_Event)
    events = [(raw, decoder.decode(raw)) for raw in raws]
    inside = [event for _, event in events if event.ph == "X" and start <= event.ts < end]
    started = {event.correlation for event in inside if event.cat in read.RUNTIME} - {None, 0}
    for raw, event in events:
        of_device = event.cat in read.DEVICE or event.ph in _FLOWS
        is_kept = event.correlation in started if of_device else start <= event.ts < end
        if is_kept or event.ph == _METADATA:
            yield raw

"""Tells the processes of a trace apart: files that are merged from several ranks. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tuner.trace.events import RUNTIME, Event

Id = int | str

_SHARED = ("all checks: several processes of this file used the same GPU, and their events cannot be told apart",)


@dataclass
class Part:
    """The events of one process, and why they may not be all."""

    events: list[Event] = field(default_factory=list)
    missing: tuple[str, ...] = ()


def processes(host: Iterable[Event]) -> list[Id]:
    """Return the ids of the processes that called the runtime of a GPU."""
    return list({event.pid: None for event in host if event.cat in RUNTIME})


def partition(events: Iterable[Any], ids: Sequence[Id]) -> dict[Id, Part]:
    """Split events by process. An event of the GPU goes to the process that launched it."""
    known = [event for event in events if type(event) is Event]
    parts = {process: Part() for process in ids}
    owners = [event.pid for event in known if event.pid in parts]
    if sum(before != after for before, after in pairwise(owners)) == len(parts) - 1:
        _split_by_position(known, parts, owners[0])
    else:
        _split_by_device(known, parts)
    return parts


def _split_by_position(events: Iterable[Event], parts: dict[Id, Part], process: Id) -> None:
    """Split a file in which the traces of the ranks follow each other."""
    for event in events:
        process = event.pid if event.pid in parts else process
        parts[process].events.append(event)


def _split_by_device(events: Sequence[Event], parts: dict[Id, Part]) -> None:
    """Split a file in which events of the ranks alternate: each GPU belongs to the process that called it most."""
    owners = _owners(events, list(parts))
    if len(set(owners.values())) < len(parts):
        for part in parts.values():
            part.missing = _SHARED
    for event in events:
        owner = event.pid if event.pid in parts else owners.get(event.pid)
        if owner is not None:
            parts[owner].events.append(event)


def _owners(events: Iterable[Event], ids: Sequence[Id]) -> dict[Id, Id]:
    """Map each GPU to the process that launched most of its work, in the order of both if that does not tell."""
    calls: dict[int, set[Id]] = {}
    launched: dict[Id, Counter[Id]] = {}
    for event in events:
        if event.correlation and event.cat in RUNTIME:
            calls.setdefault(event.correlation, set()).add(event.pid)
    for event in events:
        if event.correlation and event.pid not in ids:
            launched.setdefault(event.pid, Counter()).update(calls.get(event.correlation, ()))
    return {
        device: max(ids, key=lambda process: (counts[process], ids[place % len(ids)] == process))
        for place, (device, counts) in enumerate(sorted(launched.items(), key=lambda item: str(item[0])))
    }

"""Tells the processes of a trace apart: files that are merged from several ranks. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tuner.trace.events import RUNTIME, Event

Id = int | str

_SHARED = ("GPU times: several processes of this file used one GPU, and its events cannot be told apart",)


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
    """Split a file in which events of the ranks alternate: each GPU belongs to the process that called it most.

    Work on a GPU that several processes used belongs to the only one that made a call of its id, if only one did.
    """
    callers = _callers(events)
    owners = _owners(events, list(parts), callers)
    is_shared = len(set(owners.values())) < len(parts)
    for event in events:
        if event.pid in parts:
            parts[event.pid].events.append(event)
        elif not is_shared and event.pid in owners:
            parts[owners[event.pid]].events.append(event)
        elif event.correlation:
            _give_to_only_caller(event, callers.get(event.correlation, set()), parts)
    for process, part in parts.items():
        if part.missing:
            part.events = [event for event in part.events if event.pid == process]


def _give_to_only_caller(event: Event, callers: set[Id], parts: dict[Id, Part]) -> None:
    if len(callers) == 1:
        parts[next(iter(callers))].events.append(event)
        return
    for process in callers:
        parts[process].missing = _SHARED


def _callers(events: Iterable[Event]) -> dict[int, set[Id]]:
    """Return the processes that made a call of each id."""
    callers: dict[int, set[Id]] = {}
    for event in events:
        if event.correlation and event.cat in RUNTIME:
            callers.setdefault(event.correlation, set()).add(event.pid)
    return callers


def _owners(events: Iterable[Event], ids: Sequence[Id], callers: Mapping[int, set[Id]]) -> dict[Id, Id]:
    """Map each GPU to the process that launched most of its work, in the order of both if that does not tell."""
    launched: dict[Id, Counter[Id]] = {}
    for event in events:
        if event.correlation and event.pid not in ids:
            launched.setdefault(event.pid, Counter()).update(callers.get(event.correlation, ()))
    return {
        device: max(ids, key=lambda process: (counts[process], ids[place % len(ids)] == process))
        for place, (device, counts) in enumerate(sorted(launched.items(), key=lambda item: str(item[0])))
    }

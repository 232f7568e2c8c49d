"""What a trace shows of torch.compile: regions that ran compiled, look-ups of compiled code, compile work. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from tuner.trace.enclosing import EnclosingEvent
from tuner.trace.read import Trace
from tuner.trace.waits import GRAPH_LAUNCHES

UNNAMED = "?"
LOOKUP = "TorchDynamo Cache Lookup"
_REGION = re.compile(r"^Torch-Compiled Region(?:: (\d+)/\d+)?")  # older versions of torch name no function
_COMPILED = re.compile(r"^dynamo_data: compile_id=(\d+/\d+)")
_RECORDED = re.compile(r"^(cuda|cu|hip)GraphInstantiate")
_WORK = "(dynamo_timed)"
_WHOLE_WORK = "dynamo"


@dataclass(frozen=True)
class Regions:
    """The indices of events inside the steps that torch.compile left.

    `regions` with the id of their function (the `1` of `Torch-Compiled Region: 1/0`), `lookups` of compiled code,
    `work` of the compiler, and `graphs` compiled, with their id.
    """

    regions: dict[int, str] = field(default_factory=dict)
    lookups: list[int] = field(default_factory=list)
    work: set[int] = field(default_factory=set)
    graphs: dict[int, str] = field(default_factory=dict)


def find_regions(trace: Trace) -> Regions:
    """Find the compiled regions, guard lookups and compile work of a trace's steps."""
    found = Regions()
    for name, indices in trace.indices_by_name.items():
        if name == LOOKUP:
            found.lookups.extend(indices)
        elif name == _WHOLE_WORK or name.endswith(_WORK):
            found.work.update(indices)
        elif match := _REGION.match(name):
            found.regions.update(dict.fromkeys(indices, match[1] or UNNAMED))
        elif match := _COMPILED.match(name):
            found.graphs.update(dict.fromkeys(indices, match[1]))
    return found


def nested_regions(trace: Trace, found: Regions) -> list[int]:
    """Return the regions that ran inside another one."""
    around = EnclosingEvent(trace, found.regions.__contains__)
    return [index for index in found.regions if around(index) >= 0]


def failed_lookups(trace: Trace, found: Regions) -> list[int]:
    """Return the look-ups after which no compiled region ran: dynamo gave the function up, and it runs uncompiled."""
    open_lookup: dict[int, int] = {}
    without: list[int] = []
    for index in sorted((*found.lookups, *found.regions)):
        # What follows at the same depth decides: a region, or another look-up.
        before = open_lookup.pop(trace.parents[index], None)
        if index not in found.regions:
            if before is not None:
                without.append(before)
            open_lookup[trace.parents[index]] = index
    return sorted([*without, *open_lookup.values()])


def outermost_work(trace: Trace, found: Regions) -> dict[int, int]:
    """Map each piece of compile work and each graph to the index of the outermost work around it, or its own."""
    around = EnclosingEvent(trace, found.work.__contains__)
    outermost: dict[int, int] = {}
    for index in sorted({*found.work, *found.graphs}):  # the outer ones come first
        outermost[index] = outermost.get(around(index), index)
    return outermost


def graph_recordings(trace: Trace) -> list[int]:
    """Return the recordings of CUDA graphs inside the steps, by the call that ends each.

    A driver's call inside a runtime's call is the same recording."""
    ends = chain.from_iterable(indices for name, indices in trace.indices_by_name.items() if _RECORDED.search(name))
    within = {index: trace.parents[index] for index in ends}
    return sorted(index for index, parent in within.items() if parent not in within)


def graph_replays(trace: Trace, found: Regions) -> Iterator[tuple[int, int]]:
    """Map each launch of a CUDA graph to the innermost compiled region around it, or -1."""
    launches = (indices for name, indices in trace.indices_by_name.items() if name.startswith(GRAPH_LAUNCHES))
    region = EnclosingEvent(trace, found.regions.__contains__)
    for index in sorted(chain.from_iterable(launches)):
        yield index, region(index)

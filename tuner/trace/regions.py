"""The events of torch.compile in a trace: compiled regions, look-ups of compiled code, compile work. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from tuner.trace.enclosing import EnclosingEvent
from tuner.trace.read import Trace
from tuner.trace.waits import is_graph_launch

UNNAMED = "?"
LOOKUP = "TorchDynamo Cache Lookup"
_REGION = re.compile(r"^Torch-Compiled Region(?:: (\d+)/\d+)?")  # older versions of torch name no function
_COMPILED = re.compile(r"^dynamo_data: compile_id=(\d+/\d+)")
_RECORDED = re.compile(r"^(cuda|cu|hip)GraphInstantiate")
_CALL = "CompiledFxGraph"
_WORK = "(dynamo_timed)"
_WHOLE_WORK = "dynamo"


@dataclass(frozen=True)
class Regions:
    """The indices of torch.compile's events inside the steps.

    `regions` maps each compiled region to the id of its function (the `1` of `Torch-Compiled Region: 1/0`), `lookups`
    lists look-ups of compiled code, `work` is compile work, and `graphs` maps each graph compiled to its id.
    """

    regions: dict[int, str] = field(default_factory=dict)
    lookups: list[int] = field(default_factory=list)
    work: set[int] = field(default_factory=set)
    graphs: dict[int, str] = field(default_factory=dict)


def find_regions(trace: Trace) -> Regions:
    """Find the compiled regions, guard lookups and compile work of a trace's steps."""
    compiled = Regions()
    for name, indices in trace.indices_by_name.items():
        if name == LOOKUP:
            compiled.lookups.extend(indices)
        elif name == _WHOLE_WORK or name.endswith(_WORK):
            compiled.work.update(indices)
        elif match := _REGION.match(name):
            compiled.regions.update(dict.fromkeys(indices, match[1] or UNNAMED))
        elif match := _COMPILED.match(name):
            compiled.graphs.update(dict.fromkeys(indices, match[1]))
    return compiled


def nested_regions(trace: Trace, compiled: Regions) -> list[int]:
    """Return the regions that another one called because its graph had ended.

    A region inside a graph's own code is the compiled body of a custom operator, which no graph break made.
    """
    around = EnclosingEvent(trace, lambda index: index in compiled.regions or _is_of_graph(trace.host[index].name))
    return [index for index in compiled.regions if around(index) in compiled.regions]


def _is_of_graph(name: str) -> bool:
    return "::" in name or _CALL in name


def failed_lookups(trace: Trace, compiled: Regions) -> list[int]:
    """Return the look-ups after which no compiled region ran: dynamo gave up, and the function runs uncompiled.

    Until the first call after a compilation ends, look-ups that fail belong to the compilation. Before 2.3, torch
    recorded no regions, so look-ups say nothing if compiled code ran without one.
    """
    if not compiled.regions and _ran_compiled_code(trace):
        return []
    ends = _first_calls(trace, compiled)
    return [index for index in _without_region(trace, compiled) if trace.host[index].ts >= ends]


def _ran_compiled_code(trace: Trace) -> bool:
    is_of_graph = any(_CALL in name or name == "CompiledFunction" for name in trace.indices_by_name)
    return is_of_graph or any(kernel.name.startswith("triton_") for kernel in trace.kernels)


def _first_calls(trace: Trace, compiled: Regions) -> float:
    """Return when the first call after the last compilation ends."""
    compiled_at = max((trace.host[index].end for index in compiled.work), default=-math.inf)
    later = (index for index in compiled.regions if trace.host[index].ts >= compiled_at)
    first = min(later, key=lambda index: trace.host[index].ts, default=None)
    return compiled_at if first is None or not compiled.work else max(compiled_at, trace.host[first].end)


def _without_region(trace: Trace, compiled: Regions) -> list[int]:
    open_lookup: dict[int, int] = {}
    without: list[int] = []
    for index in sorted((*compiled.lookups, *compiled.regions)):
        # A look-up succeeded if the next event at its depth is a region, not another look-up.
        before = open_lookup.pop(trace.parents[index], None)
        if index not in compiled.regions:
            if before is not None:
                without.append(before)
            open_lookup[trace.parents[index]] = index
    return sorted([*without, *open_lookup.values()])


def outermost_work(trace: Trace, compiled: Regions) -> dict[int, int]:
    """Map each event of compile work and each graph to the outermost compile work around it, or to itself."""
    around = EnclosingEvent(trace, compiled.work.__contains__)
    outermost: dict[int, int] = {}
    for index in sorted({*compiled.work, *compiled.graphs}):  # outer events come first
        outermost[index] = outermost.get(around(index), index)
    return outermost


def graph_recordings(trace: Trace) -> list[int]:
    """Return the calls that end the recording of a CUDA graph inside the steps.

    A driver call inside a runtime call belongs to the same recording.
    """
    ends = chain.from_iterable(indices for name, indices in trace.indices_by_name.items() if _RECORDED.search(name))
    within = {index: trace.parents[index] for index in ends}
    return sorted(index for index, parent in within.items() if parent not in within)


def graph_replays(trace: Trace, compiled: Regions) -> Iterator[tuple[int, int]]:
    """Yield each launch of a CUDA graph with the innermost compiled region around it, or -1."""
    launches = (indices for name, indices in trace.indices_by_name.items() if is_graph_launch(name))
    region = EnclosingEvent(trace, compiled.regions.__contains__)
    for index in sorted(chain.from_iterable(launches)):
        yield index, region(index)

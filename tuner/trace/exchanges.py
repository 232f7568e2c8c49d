"""Exchanges between the devices that compute an image together, from the trace of each: who waits for whom. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tuner.records.gate import RankExchanges
from tuner.trace.read import Trace

_KERNEL = re.compile(r"^(nccl|rccl)\w*Kernel", re.IGNORECASE)
_ON_HOST = "gloo:"


def exchanges_us(trace: Trace) -> list[float]:
    """Return how long each exchange of the marked steps took, in order: on the GPU, or on a CPU by gloo."""
    kernels = [event.dur for event in trace.kernels if _KERNEL.match(event.name)]
    if kernels:
        return kernels
    found = [trace.host[index] for index in trace.step_indices if trace.host[index].name.startswith(_ON_HOST)]
    return [event.dur for event in sorted(found, key=lambda event: event.ts)]


def rank_exchanges(traces: Sequence[Trace]) -> tuple[RankExchanges, ...]:
    """Return for each rank what its exchanges take of a step, and how much of that it waits for the last rank.

    An exchange begins on each rank when that one is ready, and ends on all when it is done: it is shortest on the rank
    that came last, and what it takes longer on another is a wait. Clocks of the ranks are not compared.
    """
    taken = [exchanges_us(trace) for trace in traces]
    is_matched = len({len(each) for each in taken}) == 1
    shortest = [min(each) for each in zip(*taken, strict=True)] if is_matched else []
    return tuple(
        RankExchanges(
            count_per_step=len(each) / max(1, len(trace.steps)),
            ms_per_step=sum(each) / 1000 / max(1, len(trace.steps)),
            wait_ms_per_step=(sum(each) - sum(shortest)) / 1000 / max(1, len(trace.steps)) if is_matched else None,
        )
        for trace, each in zip(traces, taken, strict=True)
    )

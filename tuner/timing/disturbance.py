"""Disturbances: calls and processes that something else on the machine held up.

A disturbance only ever slows, so only what is slow is suspected, and of two that disagree the slower one. The rule
compares the repetitions of one configuration with each other, never with another configuration: it cannot favour one.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, median_low

RATIO = 2.0
"""A process is disturbed if its latency is over so many times the median of its configuration's processes. Noise does
not reach that: between processes of the noisiest machine measured it is 12 %, of which 2 is over five standard
deviations."""

STALL_S = 1.0
"""A call is stalled if it also takes so much longer than the median call. Shorter delays belong to the machine."""


def disturbed(latencies_s: Sequence[float]) -> list[bool]:
    """Return which of the latencies that processes of one configuration measured are those of disturbed processes.

    Fewer than half can be: if half are slow, so is the configuration. Of two the slower one is suspected, until a third
    decides.
    """
    usual_s = median if len(latencies_s) > 2 else median_low
    return [is_disturbed(latency_s, usual_s(latencies_s)) for latency_s in latencies_s]


def is_disturbed(latency_s: float, usual_s: float) -> bool:
    """Return whether a latency is that of a disturbed process, given the usual one."""
    return latency_s > RATIO * usual_s


def stalled(calls_s: Sequence[float]) -> list[bool]:
    """Return which calls of one process were stalled. Fewer than half of them can be."""
    usual_s = median(calls_s)
    return [call_s > max(RATIO * usual_s, usual_s + STALL_S) for call_s in calls_s]

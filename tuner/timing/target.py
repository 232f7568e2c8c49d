"""Whether a configuration meets the latency target."""

from __future__ import annotations

MIN_WITHIN = 0.5
"""The share of calls within the latency target below which a configuration misses it: its median does."""


def meets_latency_target(within_target: float | None) -> bool:
    """Whether a configuration meets a latency target: at least half of its calls do, or there is no target."""
    return within_target is None or within_target >= MIN_WITHIN

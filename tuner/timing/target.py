"""The latency target."""

from __future__ import annotations

MIN_WITHIN = 0.5
"""The smallest share of calls within the latency target with which a configuration meets it: its median does."""


def meets_latency_target(within_target: float | None) -> bool:
    """Return whether at least half of the calls meet the latency target. True without a target (None)."""
    return within_target is None or within_target >= MIN_WITHIN

"""Which candidates the baseline's measurements rule out before a process is paid for."""

from __future__ import annotations

from tuner.records.codec import Values
from tuner.search.history import History

MIN_RATE_SHARE = 0.5
"""A type of number whose large products reach less than this share of the baseline's rate cannot make it faster."""


def ruled_out_reason(history: History, values: Values) -> str | None:
    """Return why a candidate cannot be faster on this device, or None.

    A CPU without instructions for bfloat16, for example, computes its products a hundred times slower than float32's.
    """
    baseline = history.outcomes.get(0)
    roofline = baseline.build.roofline if baseline is not None and baseline.build is not None else None
    if baseline is None or roofline is None:
        return None
    dtype, untouched = str(values["precision.dtype"]), str(baseline.values["precision.dtype"])
    rate, baseline_rate = roofline.flop_per_s.get(dtype), roofline.flop_per_s.get(untouched)
    if rate is None or baseline_rate is None or rate >= MIN_RATE_SHARE * baseline_rate:
        return None
    return (
        f"precision.dtype={dtype}: large products reach {rate / 1e9:,.0f} GFLOP/s on this device, "
        f"{baseline_rate / 1e9:,.0f} in {untouched}"
    )

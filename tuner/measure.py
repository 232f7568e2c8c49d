"""Timing: warm-up, a stopping rule on the interval of the median, and the statistics behind both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from tuner.record import Estimate, Timing

TARGET_HALF_WIDTH = 0.005
MINIMUM_SAMPLES = 6
"""Six is the least number of samples whose range covers the median with 95 % confidence."""


def median_interval(samples: Sequence[float]) -> Estimate:
    """Median and its distribution-free 95 % interval, from order statistics (binomial with p = 1/2).

    Needs at least six samples; with fewer the interval is the range, which covers less.
    """
    ordered = sorted(samples)
    count = len(ordered)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    below, rank = 0.0, 0
    while rank < count // 2:
        below += math.comb(count, rank) / 2**count
        if below > 0.025:
            break
        rank += 1
    lowest = max(rank - 1, 0)
    return Estimate(value=middle, low=ordered[lowest], high=ordered[count - 1 - lowest])


def timed(call: Callable[[], object], synchronise: Callable[[], None]) -> float:
    """Seconds of one call, with nothing of it left on the device."""
    synchronise()
    start = time.perf_counter()
    call()
    synchronise()
    return time.perf_counter() - start


def warm_up(call: Callable[[], object], synchronise: Callable[[], None], compiled: Callable[[], int]) -> None:
    """Call until nothing is compiled any more and the time has stopped falling, eight times at most."""
    previous = math.inf
    for _ in range(8):
        before = compiled()
        seconds = timed(call, synchronise)
        if compiled() == before and seconds > 0.95 * previous:
            return
        previous = seconds


def measure(call: Callable[[], object], synchronise: Callable[[], None], batch: int, allowance_s: float) -> Timing:
    """Time a warm call until the 95 % interval of the median is within 0.5 %, or the allowance is spent.

    Six samples are always taken, since fewer have no such interval.
    """
    samples: list[float] = []
    spent = 0.0
    looked = MINIMUM_SAMPLES
    while True:
        samples.append(timed(call, synchronise))
        spent += samples[-1]
        # Looking after every sample would stop at a lucky moment: look at 6, 9, 13, 19, ... samples.
        if len(samples) < MINIMUM_SAMPLES or (len(samples) < looked and spent < allowance_s):
            continue
        looked = -(-len(samples) * 3 // 2)
        estimate = median_interval(samples)
        converged = (estimate.high - estimate.low) / 2 <= TARGET_HALF_WIDTH * estimate.value
        if converged or spent >= allowance_s:
            return Timing(
                latency_s=estimate,
                samples=len(samples),
                images_per_s=batch / estimate.value,
                stopped="interval within target" if converged else "time allowance spent",
            )

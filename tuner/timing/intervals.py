"""The statistics of timings: intervals of a median, of a mean, and of a ratio between fresh processes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tuner.records.codec import Estimate

Z_95 = 1.959964
"""Half of a 95 % interval in standard errors."""

MIN_SAMPLES = 6
"""Six is the least number of samples whose range covers the median with 95 % confidence."""


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def median_interval(samples: Sequence[float]) -> Estimate:
    """Median and its distribution-free 95 % interval, from order statistics (binomial with p = 1/2).

    Needs at least six samples; with fewer the interval is the range, which covers less.
    """
    ordered = sorted(samples)
    count = len(ordered)
    below, rank = 0.0, 0
    while rank < count // 2:
        below += math.comb(count, rank) / 2**count
        if below > 0.025:
            break
        rank += 1
    lowest = max(rank - 1, 0)
    return Estimate(value=median(ordered), low=ordered[lowest], high=ordered[count - 1 - lowest])


def mean_interval(samples: Sequence[float]) -> Estimate:
    """Mean and its 95 % interval by Student's t. Needs at least two samples."""
    return _student(_mean(samples), _squares(samples), len(samples) - 1, 1 / len(samples))


def coefficient_of_variation(medians: Sequence[float]) -> float:
    """Standard deviation over mean of what several processes measured of one configuration, as a share.

    Needs at least two processes. Of n processes it is itself known to about one part in sqrt(2 (n - 1)).
    """
    return math.sqrt(_squares(medians) / (len(medians) - 1)) / _mean(medians)


def paired_ratio(ours: Sequence[float], theirs: Sequence[float], others: Sequence[float] = ()) -> Estimate:
    """`ours` over `theirs`, medians of fresh processes that were measured in turns, with its 95 % interval.

    Student's t on the logarithms of the ratios, pair by pair, so that a slow drift of the machine cancels; the process
    is the unit of repetition, not the call (Kalibera and Jones, "Rigorous Benchmarking in Reasonable Time", ISMM 2013).
    Needs two pairs. With two the interval is honest and wide: 12.7 standard errors to either side; with three 4.3, with
    five 2.8. Medians of further fresh processes of one configuration (`others`, none of them in a pair) show how much
    processes spread, too: their degrees of freedom narrow it, if one assumes that both sides spread alike.
    """
    if len(ours) != len(theirs) or len(ours) < 2:
        raise ValueError("a ratio in turns needs two pairs at least, and as many of either side")
    logs = [math.log(our / their) for our, their in zip(ours, theirs, strict=True)]
    squares, freedom = _squares(logs), len(logs) - 1
    if len(others) > 1:
        # A difference of two processes varies twice as much as one process.
        squares += 2 * _squares([math.log(other) for other in others])
        freedom += len(others) - 1
    ratio = _student(_mean(logs), squares, freedom, 1 / len(logs))
    return Estimate(value=math.exp(ratio.value), low=math.exp(ratio.low), high=math.exp(ratio.high))


def differs(ratio: Estimate) -> bool:
    """Whether a ratio is called a difference: its interval excludes 1."""
    return not ratio.low <= 1.0 <= ratio.high


def _student(mean: float, squares: float, freedom: int, share: float) -> Estimate:
    """A mean with its 95 % interval, from a sum of squares with its degrees of freedom and 1 / number of values."""
    from scipy.special import stdtrit

    half = float(stdtrit(freedom, 0.975)) * math.sqrt(squares / freedom * share)
    return Estimate(value=mean, low=mean - half, high=mean + half)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _squares(values: Sequence[float]) -> float:
    """The sum of squared deviations from the mean."""
    mean = _mean(values)
    return math.fsum((value - mean) ** 2 for value in values)


CONFIDENCE = 0.95


def supports_percentile(count: int, share: float) -> bool:
    """Whether so many samples bound a percentile from above with 95 % confidence, whatever their distribution.

    The largest of n samples lies above the p-quantile with probability 1 - p^n (Sommerville, Tables for Obtaining
    Non-Parametric Confidence Limits, 1958): the median needs 5 samples, the 95th percentile 59, the 99th 299.
    """
    return 1.0 - share**count >= CONFIDENCE


def percentile(samples: Sequence[float], share: float) -> float | None:
    """The percentile by nearest rank, a sample itself; None when the samples are too few to support it."""
    if not supports_percentile(len(samples), share):
        return None
    return sorted(samples)[math.ceil(share * len(samples)) - 1]

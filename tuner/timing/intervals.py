"""Statistics of timings: confidence intervals of a median, a mean and a ratio between fresh processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median, stdev, variance

from tuner.records.codec import Estimate

Z_95 = 1.959964
"""Half the width of a 95 % interval of a normal distribution, in standard errors."""

MIN_SAMPLES = 6
"""Six is the smallest number of samples whose range covers the median with 95 % confidence."""

CONFIDENCE = 0.95

T_95 = (
    12.70620473617, 4.302652729749, 3.182446305284, 2.776445105198, 2.570581835636, 2.446911851145,
    2.364624251593, 2.306004135204, 2.262157162798, 2.228138851986, 2.200985160092, 2.178812829667,
    2.160368656463, 2.144786687918, 2.13144954556, 2.119905299221, 2.109815577833, 2.100922040241,
    2.093024054408, 2.085963447266,
)  # fmt: skip
"""Student's t for 95 % confidence by its degrees of freedom, from 1 on. With it the parent process, which compares a
few processes, need not load scipy: 0.3 s of CPU time, and 2.6 s on one machine."""

MIN_DEGREES = 2
"""Degrees of freedom without which a single pair has no interval: with one it would reach 12.7 standard errors."""


def median_interval(samples: Sequence[float]) -> Estimate:
    """Return the median and its distribution-free 95 % interval, from order statistics (binomial with p = 1/2).

    Needs at least six samples. With fewer the interval is the range, which covers less than 95 %.
    """
    from scipy.special import bdtrik

    ordered = sorted(samples)
    rank = max(math.ceil(bdtrik((1 - CONFIDENCE) / 2, len(ordered), 0.5)) - 1, 0)
    return Estimate(value=median(ordered), low=ordered[rank], high=ordered[-1 - rank])


def latency_interval(samples: Sequence[float]) -> Estimate:
    """Return the median with its distribution-free interval, or of fewer than six samples the mean by Student's t."""
    return median_interval(samples) if len(samples) >= MIN_SAMPLES else mean_interval(samples)


def mean_interval(samples: Sequence[float]) -> Estimate:
    """Return the mean and its 95 % interval by Student's t. Needs at least two samples."""
    return _student(fmean(samples), stdev(samples) / math.sqrt(len(samples)), len(samples) - 1)


def coefficient_of_variation(medians: Sequence[float]) -> float:
    """Return the standard deviation over the mean of the medians that several processes measured.

    Needs at least two processes. From n processes the result is known to about one part in sqrt(2 (n - 1)).
    """
    return stdev(medians) / fmean(medians)


def pooled_variation(groups: Sequence[Sequence[float]]) -> float:
    """Return the coefficient of variation within groups, each of the medians that several processes measured.

    Needs a group of two. What groups differ by does not count.
    """
    several = [group for group in groups if len(group) > 1]
    squares = sum((len(group) - 1) * coefficient_of_variation(group) ** 2 for group in several)
    return math.sqrt(squares / sum(len(group) - 1 for group in several))


def widest_ratio(numerator: Estimate, denominator: Estimate) -> Estimate:
    """Return the ratio of two estimates that were not measured in pairs, with the widest interval that theirs allow."""
    smallest = max(denominator.low, 1e-9)  # the interval of a prediction may reach 0
    return Estimate(
        value=numerator.value / denominator.value,
        low=numerator.low / denominator.high,
        high=numerator.high / smallest,
    )


def paired_ratio(
    numerators: Sequence[float], denominators: Sequence[float], unpaired: Sequence[Sequence[float]] = ()
) -> Estimate:
    """Return the ratio of two configurations that fresh processes measured in turn, with its 95 % interval.

    Each value is the median of one process. Student's t is applied to the logarithms of the ratios, pair by pair, so
    that a slow drift of the machine cancels. The process is the unit of repetition, not the call (Kalibera and Jones,
    "Rigorous Benchmarking in Reasonable Time", ISMM 2013).

    With two pairs the interval reaches 12.7 standard errors to either side, with three 4.3, with five 2.8.
    `unpaired` holds medians of processes of one configuration, in groups of which each ran on one device. Their
    degrees of freedom narrow the interval, under the assumption that both configurations vary alike between processes.
    A single pair needs two of them; its own processes may be in these groups.

    Raises ValueError with no pair, or one pair and too few others.
    """
    if len(numerators) != len(denominators) or not numerators:
        raise ValueError("a ratio needs at least one pair, and as many numerators as denominators")
    logs = [math.log(top / bottom) for top, bottom in zip(numerators, denominators, strict=True)]
    degrees = len(logs) - 1
    squares = variance(logs) * degrees if degrees else 0.0
    for group in unpaired:
        if len(group) > 1:
            # The difference of two processes has twice the variance of one process.
            squares += 2 * variance(map(math.log, group)) * (len(group) - 1)
            degrees += len(group) - 1
    if len(logs) == 1 and degrees < MIN_DEGREES:
        raise ValueError(f"a single pair needs {MIN_DEGREES} degrees of freedom from other processes, not {degrees}")
    ratio = _student(fmean(logs), math.sqrt(squares / degrees / len(logs)), degrees)
    return Estimate(value=math.exp(ratio.value), low=math.exp(ratio.low), high=math.exp(ratio.high))


def differs(ratio: Estimate) -> bool:
    """Return whether the interval of a ratio excludes 1."""
    return not ratio.low <= 1.0 <= ratio.high


def _student(mean: float, standard_error: float, degrees: int) -> Estimate:
    half = student_t(degrees) * standard_error
    return Estimate(value=mean, low=mean - half, high=mean + half)


def student_t(degrees: int) -> float:
    """Return half the width of a 95 % interval by Student's t, in standard errors."""
    if degrees <= len(T_95):
        return T_95[degrees - 1]
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))


def supports_percentile(count: int, share: float) -> bool:
    """Return whether `count` samples bound a percentile from above with 95 % confidence, for any distribution.

    The largest of n samples lies above the p-quantile with probability 1 - p^n (Sommerville, Tables for Obtaining
    Non-Parametric Confidence Limits, 1958): the median needs 5 samples, the 95th percentile 59, the 99th 299.
    """
    return 1.0 - share**count >= CONFIDENCE


def percentile(samples: Sequence[float], share: float) -> float | None:
    """Return the percentile by nearest rank, which is one of the samples, or None if they are too few to support it."""
    if not supports_percentile(len(samples), share):
        return None
    import numpy as np

    return float(np.quantile(samples, share, method="inverted_cdf"))

"""Judge on few prompts first, and on more only while the verdict is in doubt.

Each look at the images could decide wrongly by chance. The looks share the error of one, in proportion to the prompts
that each adds: alpha spending (Lan and DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 1983)
with the linear spending function (Kim and DeMets, Biometrika 1987). Dependence between looks is ignored, which errs
towards wider intervals.
"""

from __future__ import annotations

from collections.abc import Iterator

from tuner.records.codec import Estimate

FIRST_PROMPTS = 4
ERROR = 0.05

FURTHER_CONFIDENCE = 0.975
"""The confidence of an interval on twice the prompts of a race, or of another such look: each adds at most 2.5 % of
decisions by chance to the 5 % of the race, and 0.3 % in simulations, as only what would then be good is looked at."""

MIN_PROMPTS_WITHIN = 16
"""Prompts before a candidate can be within the tolerance. What damages one prompt of six shows among them 19 times in
20, among four only every second time, and no interval knows of prompts that it has not seen."""

MORE_SHARE = 0.25
"""The share of what the untouched pipeline's images may take in which slow calls generate more than a verdict needs:
all candidates wait for them, and a trial that they leave in doubt is judged on more prompts later, but for on Ray."""

VARIED_SLOW = 2
"""Prompts of slow calls that are generated again from other seeds, and with other rounding."""


def looks(count: int, batch: int) -> Iterator[int]:
    """Yield after how many prompts to look: 4, 8, 16, ... up to `count`, in whole batches."""
    prompts = FIRST_PROMPTS
    while (whole := -(-prompts // batch) * batch) < count:
        yield whole
        prompts = 2 * whole
    yield count


def reference_prompts(count: int, batch: int, affordable: float, *, is_slow: bool) -> int:
    """Return of how many of `count` prompts the untouched pipeline generates images; those of `affordable` fit.

    Of slow calls it is the least look that lets a verdict be sure, or a larger one within `MORE_SHARE`.
    """
    numbers = list(looks(count, batch))
    fitting = [prompts for prompts in numbers if prompts <= affordable] or numbers[:1]
    enough = next((prompts for prompts in fitting if prompts >= MIN_PROMPTS_WITHIN), fitting[-1])
    return max(p for p in fitting if p <= max(enough, MORE_SHARE * affordable)) if is_slow else fitting[-1]


def further_sets(prompts: int, batch: int, affordable: float) -> int:
    """Return how many sets of `VARIED_SLOW` images slow calls may generate beside those of the prompts.

    None, those from other seeds, or also those with other rounding. `affordable` calls may be made for all.
    """
    left = affordable - -(-prompts // batch)
    return max(0, min(2, int(left // set_calls(batch))))


def set_calls(batch: int) -> int:
    """Return how many calls generate `VARIED_SLOW` images."""
    return -(-VARIED_SLOW // batch)


def confidence(before: int, prompts: int, count: int) -> float:
    """Return the confidence of the interval at `prompts` of `count` prompts, if the look before was at `before`."""
    return 1 - ERROR * (prompts - before) / count


def decision(difference: Estimate, tolerance: float, prompts: int) -> str | None:
    """Return what an interval decides: "surely worse", "surely within the tolerance", or None while it is in doubt."""
    if difference.high < -tolerance:
        return "surely worse"
    is_within = difference.low >= -tolerance and prompts >= MIN_PROMPTS_WITHIN
    return "surely within the tolerance" if is_within else None

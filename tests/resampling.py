"""How honest the interval of a paired difference is, found by drawing prompts again and again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tuner.quality.statistics import paired_difference

RESAMPLINGS = 200


def coverage(ours: Sequence[float], theirs: Sequence[float], prompts: int, seed: int = 0) -> float:
    """How often the 95 % interval from so many prompts covers the mean difference over all of them, 0 to 1."""
    random = np.random.default_rng(seed)
    a, b = np.asarray(ours), np.asarray(theirs)
    truth = float((a - b).mean())
    covered = 0
    for _ in range(RESAMPLINGS):
        chosen = random.integers(0, len(a), prompts)
        estimate = paired_difference(a[chosen].tolist(), b[chosen].tolist())
        covered += estimate.low <= truth <= estimate.high
    return covered / RESAMPLINGS

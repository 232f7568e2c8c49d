"""Bayesian linear regression: a sum of effects, and of the pairs that the data ask for.

The prior of the effects is Gaussian, and independent but for pairs that are alike (Bishop, "Pattern Recognition and
Machine Learning", 2006, 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from tuner.search.agent.features import Array, with_pairs

Pair = tuple[int, int]

MAX_CHOSEN = 12
"""Pairs that the data may ask for."""

MIN_TOGETHER = 2
"""Rows that have both settings before they can ask for a pair."""

ALIKE = 0.9
"""The correlation that is assumed between the effects of pairs that are alike. In the replay 0.8 did as well."""

SIGMA_ROWS = 6
"""So many rows the assumed error of a row is worth against the error that is seen."""


@dataclass(frozen=True)
class Prior:
    """What is assumed of the effects: mean and deviation of each column, of each pair, and the error of a row.

    A pair has the mean in `pairs`, else 0, and the deviation in `pair_deviations`, else `pair_deviation`. The pairs of
    a group in `alike` are assumed to do nearly the same.
    """

    mean: Array
    deviation: Array
    pair_deviation: float
    sigma: float
    pairs: dict[Pair, float] = field(default_factory=dict)
    pair_deviations: dict[Pair, float] = field(default_factory=dict)
    alike: Sequence[Sequence[Pair]] = ()


@dataclass(frozen=True)
class Posterior:
    """The effects after data: columns, then `pairs`. `evidence` is the log of the data's marginal likelihood."""

    mean: Array
    root: Array
    """The inverse of the precision's Cholesky factor."""
    pairs: tuple[Pair, ...]
    sigma: float
    evidence: float

    def draws(self, rows: Array, normal: Array) -> Array:
        """Return the value of each row for each draw of the effects; `normal` has a row of normal numbers a draw."""
        size = len(self.mean)
        effects = self.mean[:, None] + self.root.T @ normal[:, :size].T
        return with_pairs(rows, self.pairs) @ effects

    def expected(self, rows: Array) -> Array:
        """Return the expected value of each row."""
        return with_pairs(rows, self.pairs) @ self.mean


def fit(rows: Array, y: Array, prior: Prior, given: Sequence[Pair], errors: Array | None = None) -> Posterior:
    """Fit the effects, with the given pairs and those that the data ask for.

    `errors` is the known error of each row, beside that of the model.
    """
    pairs = list(dict.fromkeys([*given, *prior.pairs]))
    most = len(pairs) + MAX_CHOSEN
    found = _solve(rows, y, prior, pairs, errors)
    candidates = Candidates(rows, pairs, prior, errors)
    while len(pairs) < most:
        best = candidates.take(y - found.expected(rows))
        if best is None:
            break
        pairs.append(best)
        found = _solve(rows, y, prior, pairs, errors)
    misfit = float(((y - found.expected(rows)) ** 2).sum())
    sigma = math.sqrt((SIGMA_ROWS * prior.sigma**2 + misfit) / (SIGMA_ROWS + len(y)))
    return _solve(rows, y, replace(prior, sigma=max(sigma, prior.sigma / 4)), pairs, errors)


def _solve(rows: Array, y: Array, prior: Prior, pairs: Sequence[Pair], errors: Array | None) -> Posterior:
    columns = with_pairs(rows, pairs)
    mean = np.concatenate([prior.mean, [prior.pairs.get(pair, 0.0) for pair in pairs]])
    assumed, log_determinant = _assumed_precision(prior, pairs)
    weights = 1.0 / _variances(len(y), prior, errors)
    factor = np.linalg.cholesky((columns.T * weights) @ columns + assumed)
    inverse = np.linalg.inv(factor)
    found = inverse.T @ (inverse @ (columns.T @ (weights * y) + assumed @ mean))
    off = found - mean
    quadratic = (weights * (y - columns @ found) ** 2).sum() + off @ assumed @ off
    logs = np.log(weights).sum() + log_determinant - 2 * np.log(np.diag(factor)).sum()
    return Posterior(found, inverse, tuple(pairs), prior.sigma, float(logs - quadratic) / 2)


def _assumed_precision(prior: Prior, pairs: Sequence[Pair]) -> tuple[Array, float]:
    """Return the precision that is assumed of the effects, and the log of its determinant."""
    of_pairs = [prior.pair_deviations.get(pair, prior.pair_deviation) for pair in pairs]
    deviation = np.concatenate([prior.deviation, of_pairs])
    precision, log_determinant = np.diag(deviation**-2.0), -2 * float(np.log(deviation).sum())
    places = {pair: place for place, pair in enumerate(pairs, len(prior.mean))}
    for group in prior.alike:
        members = [places[pair] for pair in group if pair in places]
        inverse, log_of_inverse = _inverse_correlation(len(members))
        precision[np.ix_(members, members)] = inverse / np.outer(deviation[members], deviation[members])
        log_determinant += log_of_inverse
    return precision, log_determinant


@cache
def _inverse_correlation(count: int) -> tuple[Array, float]:
    """Return the inverse of the correlations of so many effects that are alike, and the log of its determinant."""
    correlation = np.full((count, count), ALIKE)
    np.fill_diagonal(correlation, 1.0)
    return np.linalg.inv(correlation), -float(np.linalg.slogdet(correlation)[1])


def _variances(count: int, prior: Prior, errors: Array | None) -> Array:
    return np.full(count, prior.sigma**2) + (0.0 if errors is None else errors**2)


class Candidates:
    """The pairs of settings that the data may ask for: those that enough rows have both of, and not always."""

    def __init__(self, rows: Array, given: Sequence[Pair], prior: Prior, errors: Array | None) -> None:
        counts = rows.T @ rows
        single, known = np.diag(counts), np.zeros_like(counts, dtype=bool)
        known[tuple(np.array(given, int).reshape(-1, 2).T)] = True
        fitting = (counts >= MIN_TOGETHER) & (counts < np.minimum.outer(single, single)) & ~known
        self.ones, self.others = np.nonzero(np.triu(fitting, 1))
        self.columns = rows[:, self.ones] * rows[:, self.others]
        self.weights = 1.0 / _variances(len(rows), prior, errors)
        self.information = self.weights @ self.columns + prior.pair_deviation**-2.0
        self.is_left = np.ones(len(self.ones), bool)

    def take(self, residual: Array) -> Pair | None:
        """Take the pair that explains most of what is left, if that is more than chance would find among so many."""
        if not self.is_left.any():
            return None
        explained = self.is_left * (self.columns.T @ (self.weights * residual)) ** 2 / self.information
        best = int(explained.argmax())
        if explained[best] <= 2 * math.log(self.is_left.sum()) + 4:
            return None
        self.is_left[best] = False
        return int(self.ones[best]), int(self.others[best])

"""How likely a build has a result at all: builds fail, and the gate rejects some."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from tuner.search.agent.features import STEPS, Array, Columns
from tuner.search.history import History, was_throttled

ASSUMED_BUILDS = 4
"""Good builds that each setting is assumed to have had."""

PAIR_BLAME = 8.0
"""How much a failure says against two settings that never worked together."""


class Chances:
    """The share of good builds of each setting, and of each pair that never worked together.

    A failure is blamed on the settings of a build in proportion to how seldom they worked.
    """

    def __init__(self, history: History, columns: Columns) -> None:
        builds = {(o.build_key, o.values["batch"]): o for o in history.outcomes.values() if not was_throttled(o)}
        good = [outcome.values for outcome in builds.values() if outcome.status == "measured"]
        bad = [outcome.values for outcome in builds.values() if outcome.status != "measured"] + history.refused
        may_fail = np.array([name != STEPS for name, _ in columns.settings], float)
        worked, failed = columns.rows(good) * may_fail, columns.rows(bad) * may_fail
        count = worked.sum(axis=0)
        together = worked.T @ worked
        shares = failed / (1.0 + count) ** 2
        blame = (shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)).sum(axis=0)
        self.logs = np.log((count + ASSUMED_BUILDS) / (count + ASSUMED_BUILDS * (1.0 + blame)))
        self.pairs: dict[tuple[int, int], float] = {}
        for row in failed:
            pairs = [pair for pair in combinations(np.flatnonzero(row).tolist(), 2) if not together[pair]]
            for pair in pairs:
                self.pairs[pair] = self.pairs.get(pair, 0.0) + 1.0 / len(pairs)

    def of(self, rows: Array) -> Array:
        """Return the probability that each candidate has a result."""
        logs = rows @ self.logs
        for (one, other), blame in self.pairs.items():
            logs -= rows[:, one] * rows[:, other] * np.log1p(PAIR_BLAME * blame)
        return np.asarray(np.exp(logs))

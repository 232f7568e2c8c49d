"""How likely a build has a result at all: builds fail, and the gate rejects some."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tuner.records.codec import Values
from tuner.search.agent.features import STEPS, Array, Columns
from tuner.search.agent.observed import Observed
from tuner.search.history import was_throttled

ASSUMED_BUILDS = 4
"""Good builds that each setting is assumed to have had."""

RISK = 0.1
"""Failed builds that each setting is assumed to have had: of candidates that gain alike, one with fewer settings is
tried."""

PAIR_BLAME = 8.0
"""How much a failure says against two settings that never worked together."""


def was_measured(trial: Observed) -> bool:
    """Return whether a trial shows that its build works."""
    return trial.outcome.status == "measured"


class Chances:
    """The share of good builds of each setting, and of each pair that never worked together.

    A build is good if any of its step counts was measured. A failure is blamed on the settings of a build in proportion
    to how seldom they worked.
    """

    def __init__(self, trials: Sequence[Observed], refused: Sequence[Values], columns: Columns) -> None:
        outcomes = ((trial, trial.outcome) for trial in sorted(trials, key=was_measured))
        builds = {(o.build_key, o.values["batch"]): trial for trial, o in outcomes if not was_throttled(o)}
        good = [trial.row for trial in builds.values() if trial.outcome.status == "measured"]
        bad = [trial.row for trial in builds.values() if trial.outcome.status != "measured"]
        may_fail = np.array([name != STEPS for name, _ in columns.settings], float)
        worked, failed = columns.stacked(good) * may_fail, columns.stacked([*bad, *columns.rows(refused)]) * may_fail
        count = worked.sum(axis=0)
        together = worked.T @ worked
        shares = failed / (1.0 + count) ** 2
        blame = (shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)).sum(axis=0)
        spoiled = ASSUMED_BUILDS * blame + RISK * may_fail
        self.logs = np.log((count + ASSUMED_BUILDS) / (count + ASSUMED_BUILDS + spoiled))
        never = np.triu(together == 0, 1)
        pairs = ((failed @ never) * failed).sum(axis=1)
        self.pairs = np.log1p(PAIR_BLAME * never * ((failed.T / np.maximum(pairs, 1.0)) @ failed))

    def of(self, rows: Array) -> Array:
        """Return the probability that each candidate has a result."""
        return np.asarray(np.exp(rows @ self.logs - ((rows @ self.pairs) * rows).sum(axis=1)))

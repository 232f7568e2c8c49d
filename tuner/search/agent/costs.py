"""The model of costs: what a candidate's step, the rest of its call, its first call and its loss of quality will be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tuner.records.codec import Values
from tuner.records.warm_start import Part
from tuner.search.agent import beliefs
from tuner.search.agent.features import Array, Columns, acts_outside_steps, changes_image, related
from tuner.search.agent.observed import Observed, built, divided, judged
from tuner.search.agent.regression import Posterior, Prior, fit
from tuner.search.history import History

MAX_ROWS = 400
"""The latest trials, which a model is fitted to: they are the ones near the front, and enough for all effects."""

MIN_ROWS = 8
"""Measured trials before the evidence may speak against an advisor or another study."""


class Costs:
    """What a study knows of its costs at one moment."""

    def __init__(self, history: History, trials: Sequence[Observed], columns: Columns, scale: float) -> None:
        timed = [trial for trial in trials if trial.outcome.timing is not None][-MAX_ROWS:]
        self.columns, self.warm = columns, history.warm_start
        rows = columns.stacked([trial.row for trial in timed])
        settings = columns.settings
        self.call = divided(history.baseline)
        self.image = np.array([changes_image(setting) for setting in settings], float)
        parts = [trial.divided for trial in timed]
        step = np.log([part.step / self.call.step for part in parts])
        fixed = np.log([part.fixed / self.call.fixed for part in parts])
        pairs = related(settings)
        outside = [pair for pair in pairs if acts_outside_steps(settings[pair[0]])]
        pairs = [pair for pair in pairs if pair not in outside]
        starts = self._starts(history)
        self.step = better(rows, step, self._warmed("step", [start[0] for start in starts]), pairs)
        self.fixed = better(rows, fixed, self._warmed("fixed", [start[1] for start in starts]), outside)
        self.loss = self._fit_loss(judged(trials)[-MAX_ROWS:], scale, history.space.baseline)
        builds = built(trials)[-MAX_ROWS:]
        self.first_call = self._fit_first_call(builds)
        compiled = columns.stacked([trial.row for trial, _ in builds]) @ beliefs.compile_ratios(settings)
        self.has_compiled = bool(compiled.any())
        """Whether any build has compiled something."""

    def _starts(self, history: History) -> list[tuple[Prior, Prior]]:
        """Return what is assumed of a step and of the rest: what an advisor expects, if there is one, and without."""
        settings = self.columns.settings
        recommended = [item for recipe in history.space.recipes for item in recipe.values.items()]
        weak = beliefs.weak(settings, recommended)
        if not history.advice or not history.advice.expectations:
            return [weak]
        again = beliefs.weak(settings, recommended)
        return [beliefs.advised(again, settings, history.advice.expectations, self.call, history.space.baseline), weak]

    def _warmed(self, part: Part, starts: list[Prior], unit: float = 1.0) -> list[Prior]:
        """Return what is assumed of a part, first with what another study taught, if there is one."""
        if self.warm is None:
            return starts
        return [beliefs.warmed(starts[0], part, self.columns.index, self.warm, unit), *starts]

    def _fit_loss(self, found: Sequence[Observed], scale: float, untouched: Values) -> Posterior:
        rows = self.columns.stacked([trial.row for trial in found])
        settings = self.columns.settings
        pairs = [(i, j) for i, j in related(settings) if self.image[i] and self.image[j]]
        errors = np.array([trial.loss_error for trial in found])
        points = np.array([trial.loss for trial in found])
        starts = self._warmed("loss", [beliefs.of_loss(settings, scale, untouched)], scale)
        return better(rows * self.image, points, starts, pairs, errors)

    def _fit_first_call(self, found: Sequence[tuple[Observed, float]]) -> Posterior:
        rows = self.columns.stacked([trial.row for trial, _ in found])
        seconds = np.array([seconds for _, seconds in found])
        starts = self._warmed("first_call", [beliefs.of_first_call(self.columns.settings, rows, seconds)])
        return better(rows, seconds, starts, [])

    def predict(self, rows: Array, steps: Array, normal: Array) -> tuple[Array, Array]:
        """Predict the latency per image and the loss of candidates: a row each, and a column for each draw.

        `normal` has a row of normal numbers for each draw.
        """
        third = normal.shape[1] // 3
        step_s = np.exp(self.step.draws(rows, normal[:, :third])) * self.call.step
        fixed_s = np.exp(self.fixed.draws(rows, normal[:, third : 2 * third])) * self.call.fixed
        return steps[:, None] * step_s + fixed_s, self.loss.draws(rows * self.image, normal[:, 2 * third :])

    def first_call_s(self, rows: Array) -> Array:
        """Return the expected seconds of the first call of candidates."""
        return np.maximum(self.first_call.expected(rows), 0.0)


def better(
    rows: Array, y: Array, starts: Sequence[Prior], pairs: Sequence[tuple[int, int]], errors: Array | None = None
) -> Posterior:
    """Return the fit that starts from the first prior, or from another one if the data speak for that."""
    first, *others = (fit(rows, y, start, pairs, errors) for start in (starts if len(y) >= MIN_ROWS else starts[:1]))
    return max([first, *others], key=lambda found: found.evidence)

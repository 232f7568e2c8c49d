"""Candidates as rows of zeros and ones: a column for each value that is not the baseline's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from tuner.knobs import KNOBS
from tuner.records.codec import Value, Values
from tuner.space.candidates import SearchSpace

Array = NDArray[np.float64]
Setting = tuple[str, Value]

STEPS, SCOPE = "steps", "compile.scope"


class Columns:
    """The settings that a candidate may have, each with its column: searched values, and those of recipes."""

    def __init__(self, space: SearchSpace) -> None:
        searched = ((name, choice) for name, choices in space.knobs.items() for choice in choices)
        recommended = (item for recipe in space.recipes for item in recipe.values.items())
        others = (item for item in (*searched, *recommended) if space.baseline.get(item[0]) != item[1])
        self.index: dict[Setting, int] = {setting: column for column, setting in enumerate(dict.fromkeys(others))}
        self.settings = list(self.index)

    def rows(self, candidates: Sequence[Values]) -> Array:
        """Return a row for each candidate."""
        rows = np.zeros((len(candidates), len(self.index)))
        for row, values in zip(rows, candidates, strict=True):
            row[[self.index[item] for item in values.items() if item in self.index]] = 1.0
        return rows

    def stacked(self, rows: Sequence[Array]) -> Array:
        """Return rows as one array, also if there are none."""
        return np.array(rows).reshape(len(rows), len(self.index))


def changes_image(setting: Setting) -> bool:
    """Return whether a setting may change the image by more than rounding."""
    name, value = setting
    return KNOBS[name].changes_image(value)


def related(settings: Sequence[Setting]) -> list[tuple[int, int]]:
    """Return the pairs of columns whose settings are known to work on one another.

    These are settings of the same part, such as a cache and its threshold, settings of the VAE, step counts with what
    skips steps, and what is compiled with what runs there.
    """
    pairs = combinations(range(len(settings)), 2)
    return [(one, other) for one, other in pairs if _are_related(settings[one], settings[other])]


def alike(settings: Sequence[Setting]) -> list[list[tuple[int, int]]]:
    """Return groups of pairs of columns that do nearly the same.

    What compiling does to a setting is alike whether blocks are compiled or the whole denoiser.
    """
    scopes = [column for column, (name, _) in enumerate(settings) if name == SCOPE]
    others = [column for column, (name, _) in enumerate(settings) if name != SCOPE]
    groups = [[(min(scope, other), max(scope, other)) for scope in scopes] for other in others]
    return [group for group in groups if len(group) > 1 and _are_related(*(settings[column] for column in group[0]))]


def _are_related(one: Setting, other: Setting) -> bool:
    names, parts = {one[0], other[0]}, {one[0].partition(".")[0], other[0].partition(".")[0]}
    if len(names) == 1 or acts_outside_steps(one) != acts_outside_steps(other):
        return False
    if acts_outside_steps(one) or len(parts) == 1 or parts == {STEPS, "cache"}:
        return True
    return SCOPE in names and STEPS not in names


def acts_outside_steps(setting: Setting) -> bool:
    """Return whether a setting acts on the VAE or the text encoders, not on the denoiser."""
    name = setting[0]
    return "vae" in name or "text_encoders" in name


def with_pairs(rows: Array, pairs: Sequence[tuple[int, int]]) -> Array:
    """Return rows with a column more for each pair: whether a candidate has both settings."""
    if not pairs:
        return rows
    ones, others = np.array(pairs).T
    return np.hstack([rows, rows[:, ones] * rows[:, others]])

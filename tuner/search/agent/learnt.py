"""What the model of one study has learnt, as the start of another's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from tuner.records.codec import Values
from tuner.records.warm_start import Effect, Part
from tuner.result import front
from tuner.search.agent.costs import Costs
from tuner.search.agent.features import Array, Columns, with_pairs
from tuner.search.agent.observed import Observer
from tuner.search.agent.regression import Posterior
from tuner.search.history import History
from tuner.space.candidates import SearchSpace


def learnt(history: History, space: SearchSpace) -> tuple[tuple[Effect, ...], tuple[Values, ...]]:
    """Return what a study learnt that holds in another space: its effects, and the candidates on its front.

    The effect of a setting holds if the untouched pipeline has the same value of that knob in both.
    """
    columns = Columns(history.space)
    trials = Observer(columns).trials(history)
    costs = Costs(history, trials, columns, history.space.tolerance or 1.0)
    rows = columns.stacked([trial.row for trial in trials if trial.is_measured])
    parts: Mapping[Part, Posterior] = {
        "step": costs.step, "fixed": costs.fixed, "first_call": costs.first_call, "loss": costs.loss,
    }  # fmt: skip
    same = {name for name, value in space.baseline.items() if history.space.baseline.get(name) == value}
    found = (effect for part, posterior in parts.items() for effect in _effects(part, posterior, columns, rows))
    effects = tuple(effect for effect in found if effect.settings.keys() <= same)
    return effects, tuple(_candidates(history, space))


def _effects(part: Part, posterior: Posterior, columns: Columns, rows: Array) -> Iterator[Effect]:
    """Yield the effects on a part of the settings that were tried, and of their pairs."""
    was_tried = with_pairs(rows, posterior.pairs).any(axis=0)
    errors = np.sqrt((posterior.root**2).sum(axis=0))
    places = [(column,) for column in range(len(columns.settings))] + list(posterior.pairs)
    for place in np.flatnonzero(was_tried).tolist():
        settings = dict(columns.settings[column] for column in places[place])
        yield Effect(part=part, settings=settings, mean=float(posterior.mean[place]), error=float(errors[place]))


def _candidates(history: History, space: SearchSpace) -> Iterator[Values]:
    """Yield the candidates of a space that have the settings of those on a study's front."""
    for outcome in front.pareto_front(history.all_comparable()):
        changed = history.space.changed(outcome.values)
        if all(value in space.knobs.get(name, ()) for name, value in changed.items()):
            yield space.candidate(changed)

"""What Optuna is told of a trial, and whether it was told that."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from tuner.records.outcome import Outcome, Timing
from tuner.search.history import BASELINE, History
from tuner.study.attributes import attributes
from tuner.timing.target import MIN_WITHIN, meets_latency_target


def possibly_known(history: History, outcome: Outcome) -> Iterator[Outcome]:
    """Yield what Optuna may have been told of a trial: at its end, and after each of its repetitions.

    Those of several devices need not end in the order of their ids. Which count depends on the baseline's of that time.
    """
    own = [repetition for repetition in history.repetitions if repetition.number == outcome.number]
    recorded = [own[:count] for count in range(len(own) + 1)]
    recorded += [[repetition for repetition in own if repetition is not last] for last in own[:-1]]
    baselines = [run for run in history.repetitions if BASELINE == run.number != outcome.number]
    for repetitions in recorded:
        for count in range(len(baselines) + 1) if any(run.pair for run in repetitions) else (0,):
            known = dataclasses.replace(history, repetitions=[*baselines[:count], *repetitions]).as_measured(outcome)
            yield known
            if known.quality != outcome.quality:  # another price brings back the first cost, but not the first scores
                yield msgspec.structs.replace(outcome, quality=known.quality)


def is_told(trial: Any, possibly_known: Iterator[Outcome]) -> bool:
    """Return whether Optuna's trial has the state, the values and the figures of what was known of a trial.

    The two may be of different moments: another price first brings the values back to those at the trial's end.
    """
    known = list(possibly_known)
    has_values = any(
        (trial.state.name, trial.values) == ("COMPLETE" if values else "PRUNED", values)
        for values in map(values_of, known)
    )
    return has_values and any(_has_figures(trial, attributes(outcome)) for outcome in known)


def _has_figures(trial: Any, known: Mapping[str, Any]) -> bool:
    figures = {name: value for name, value in known.items() if isinstance(value, int | float)}
    return all(trial.user_attrs.get(name, value) == value for name, value in figures.items())


def excess(timing: Timing, target_s: float) -> float:
    """Return how far a configuration misses its latency target, as a share of it; above 0 if it does."""
    if timing.within_target is None or meets_latency_target(timing.within_target):
        return 0.0
    return (MIN_WITHIN - timing.within_target) + max(0.0, timing.latency_s.value / target_s - 1)


def values_of(outcome: Outcome) -> list[float] | None:
    """Return the values for Optuna, in the order of METRICS; None if the outcome has no place on the front."""
    cost, quality = outcome.cost_usd_per_1000_images, outcome.quality
    return [cost, quality.mean] if outcome.status == "measured" and cost is not None and quality is not None else None

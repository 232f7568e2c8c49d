"""Which candidates a study knows already, and how to come by others."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain

from tuner.knobs import KNOBS
from tuner.records.codec import Value, Values
from tuner.records.outcome import Outcome
from tuner.search.bounds import refusal_reason
from tuner.search.history import MAX_TRIES, History, was_built, was_throttled
from tuner.space.candidates import SearchSpace, build_values

TRIES = 100
"""Candidates near the last that are drawn before all are gone through."""

Key = frozenset[tuple[str, Value]]


def key(values: Values) -> Key:
    """Return what two candidates have in common if all their values are equal."""
    return frozenset(values.items())


class Known:
    """The candidates that need no trial of their own, as of one moment: quicker to ask than the history."""

    def __init__(self, history: History, key_of: Callable[[Outcome], Key] | None = None) -> None:
        """Take what a history knows. `key_of` returns the key of a recorded trial, if the caller has it."""
        key_of = key_of or (lambda outcome: key(outcome.values))
        outcomes, running = history.outcomes.values(), history.running
        sweeps = chain.from_iterable(flight.sweep for flight in running)
        throttled = Counter(key_of(outcome) for outcome in outcomes if was_throttled(outcome))
        self.candidates = {key_of(outcome) for outcome in outcomes if not was_throttled(outcome)}
        self.candidates |= {key(values) for values in chain(history.refused, sweeps)}
        self.candidates |= {candidate for candidate, tries in throttled.items() if tries >= MAX_TRIES}
        works = {build(outcome.values) for outcome in outcomes if outcome.status == "measured"}
        failed = [(build(outcome.values), outcome) for outcome in outcomes if not was_built(outcome)]
        self.builds = {built for built, outcome in failed if not was_built(outcome, works=built in works)}
        self.builds |= {build(flight.sweep[0]) for flight in running if flight.sweep}

    def __contains__(self, values: Values) -> bool:
        return key(values) in self.candidates or build(values) in self.builds


def unknown_candidate(history: History, known: Known, chance: random.Random, last: Values) -> Values | None:
    """Return a valid candidate that is not known: near the last one, else any; None if there is none."""
    near = (changed(history.space, chance, last, 1 + attempt // 20) for attempt in range(TRIES))
    for values in chain(near, every(history.space)):
        if values not in known and refusal_reason(history, values) is None:
            return values
    return None


def changed(space: SearchSpace, chance: random.Random, values: Values, count: int) -> Values:
    """Return a candidate that differs from another in so many values at most, besides what those make active."""
    names = [name for name, choices in space.knobs.items() if len(choices) > 1]
    other = {name: chance.choice(space.knobs[name]) for name in chance.sample(names, min(count, len(names)))}
    return space.sample(nearest({**values, **other}, chance))


def nearest(wanted: Values, chance: random.Random | None = None) -> Callable[[str, tuple[Value, ...]], Value]:
    """Return what picks the wanted value of each knob, and where none is wanted any, or the first."""
    return lambda name, choices: (
        wanted[name] if wanted.get(name) in choices else chance.choice(choices) if chance else choices[0]
    )


def build(values: Values) -> Key:
    """Return what the step counts of one build have in common."""
    return key({**build_values(values), "batch": values["batch"]})


def every(space: SearchSpace) -> Iterator[Values]:
    """Yield every candidate of a space that has no conflict, each once."""
    names = [name for name in KNOBS if name in space.baseline]

    def extend(index: int, values: Values) -> Iterator[Values]:
        if index == len(names):
            yield dict(values)
            return
        name = names[index]
        if not KNOBS[name].is_active(values):
            yield from extend(index + 1, values)
            return
        for value in space.knobs.get(name, (space.baseline[name],)):
            yield from extend(index + 1, {**values, name: value})

    return (values for values in extend(0, {}) if space.conflict_reason(values) is None)

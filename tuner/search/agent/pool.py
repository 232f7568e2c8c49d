"""The builds that are compared: recipes, what differs little from the best known, and others drawn at random."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import prod

import numpy as np

from tuner.records.codec import Values
from tuner.search.agent.features import STEPS, Array, Columns
from tuner.search.unknown import Key, build, changed, every, key, nearest
from tuner.space.candidates import SearchSpace, image_key

AT_RANDOM = 250
"""Builds drawn once, whatever is known."""

KEPT = 2000
"""Builds that are kept from choice to choice, about 50 MB."""

SMALL = 3000
"""A space of no more combinations is listed as a whole."""


@dataclass(frozen=True, eq=False)
class Build:
    """A build with all that follows from its values: each of its step counts is a point."""

    points: tuple[Values, ...]
    rows: Array

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        """The key of each point."""
        return tuple(map(key, self.points))

    @cached_property
    def images(self) -> tuple[str, ...]:
        """The image key of each point."""
        return tuple(map(image_key, self.points))

    @cached_property
    def key(self) -> Key:
        """What its points have in common."""
        return build(self.points[0])

    @cached_property
    def code(self) -> Key:
        """What decides which code is compiled."""
        return code(self.points[0])

    @cached_property
    def steps(self) -> Array:
        """The step count of each point."""
        return np.array([float(values[STEPS]) for values in self.points])


def code(values: Values) -> Key:
    """Return what decides which code is compiled for a candidate."""
    return key(values) - {(STEPS, values[STEPS])}


class Pool:
    """The builds of a space. Which are compared follows from a seed and from what is known, not from earlier calls."""

    def __init__(self, space: SearchSpace, columns: Columns, seed: int, liked: Sequence[Values] = ()) -> None:
        """Make the builds that are always compared. `liked` are among them."""
        self.space = space
        self.columns = columns
        self.names = [name for name, choices in space.knobs.items() if len(choices) > 1 and name != STEPS]
        self.made: dict[Key, Build | None] = {}
        self.beside: dict[Key, list[Build]] = {}
        self.is_whole = prod(map(len, space.knobs.values())) <= SMALL
        chance = random.Random(seed)  # noqa: S311
        self.always = self.of(every(space) if self.is_whole else chain(self._first(chance), liked))

    def of(self, candidates: Iterable[Values]) -> list[Build]:
        """Return the builds of candidates, each once, without those that conflict."""
        return [build for build in dict.fromkeys(map(self._made, candidates)) if build is not None]

    def _made(self, values: Values) -> Build | None:
        known = code(values)
        if known not in self.made:
            every_step = [{**values, STEPS: steps} for steps in self.space.knobs.get(STEPS, (values[STEPS],))]
            points = tuple(point for point in every_step if self.space.conflict_reason(point) is None)
            self.made[known] = Build(points, self.columns.rows(points)) if points else None
        return self.made[known]

    def _first(self, chance: random.Random) -> Iterator[Values]:
        for recipe in self.space.recipes:
            yield self.space.candidate(recipe.values)
        yield from self.neighbours(self.space.candidate({}))
        for _ in range(AT_RANDOM):
            yield self.space.sample(lambda _, choices: chance.choice(choices))

    def neighbours(self, values: Values) -> Iterator[Values]:
        """Yield the candidates that differ from another in one value, besides what that makes active."""
        for name in self.names:
            for value in self.space.knobs[name]:
                if value != values.get(name):
                    yield self.space.sample(nearest({**values, name: value}))

    def next_to(self, values: Values) -> list[Build]:
        """Return the builds of the neighbours of a candidate."""
        known = code(values)
        if known not in self.beside:
            self.beside[known] = self.of(self.neighbours(values))
        return self.beside[known]

    def near(self, chance: random.Random, best: Sequence[Values], count: int) -> list[Build]:
        """Return the builds near some of the best, and so many that differ in two values or more."""
        if self.is_whole or not best:
            return []
        if len(self.made) > KEPT:
            self.made.clear()
            self.beside.clear()
        further = (changed(self.space, chance, chance.choice(best), chance.choice((2, 2, 3, 4))) for _ in range(count))
        single = (build for one in best for build in self.next_to(one))
        return list(dict.fromkeys([*self.of(best), *single, *self.of(further)]))

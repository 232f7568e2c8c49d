"""The search of somebody who knows the whole table: always what gains most hypervolume a second. A yardstick."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search_bench.replay import KNOWN_IMAGES, NEW_IMAGES, PENALTY_LIMIT, Replay
from tuner.records.outcome import Device, Outcome
from tuner.search.agent.features import Array
from tuner.search.agent.worth import LEVELS, gains, lowered
from tuner.search.history import History
from tuner.search.strategy import Proposal, Strategy
from tuner.search.unknown import every
from tuner.space.candidates import build_key, image_key

COMPARED = 300
"""Points, the best by themselves, of whose builds the other step counts are weighed, too."""


class Informed(Strategy):
    """Takes each build with the step counts that raise what it gains a second, greedily."""

    def __init__(self, replay: Replay) -> None:
        table = replay.table
        self.candidates = [values for values in every(table.space) if table.point(values).status == "measured"]
        points = [table.point(values) for values in self.candidates]
        self.latency_s = np.array([point.latency_s for point in points])
        self.penalty = np.array([point.penalty for point in points])
        self.timing_s = np.array([replay.timing_s(values) for values in self.candidates])
        self.build = _numbered([build_key(values) for values in self.candidates])
        self.image = _numbered([image_key(values) for values in self.candidates])
        self.was_built = np.zeros(self.build.max() + 1, bool)
        self.was_drawn = np.zeros(self.image.max() + 1, bool)
        self.front = np.full((1, LEVELS), table.point(table.space.candidate({})).latency_s)

    def propose(self, history: History, device: Device) -> Proposal | None:
        image_s = self.latency_s * np.where(self.was_drawn[self.image], KNOWN_IMAGES, NEW_IMAGES)
        gain = np.where(self.was_built[self.build], 0.0, self._gains(self.front, np.arange(len(self.candidates))))
        rates = gain / (self.timing_s + image_s)
        best = [place for place in np.argsort(-rates)[:COMPARED].tolist() if gain[place] > 0]
        if not best:
            return None
        rows = [self._row(place, image_s) for place in best]
        _, row = max(rows, key=lambda rate_and_row: rate_and_row[0])
        for place in row:
            self.front = self._with(self.front, place)
        self.was_built[self.build[row[0]]] = True
        self.was_drawn[self.image[row]] = True
        steps = tuple(int(self.candidates[place]["steps"]) for place in row[1:])
        return Proposal(self.candidates[row[0]], "search", steps=steps)

    def _row(self, first: int, image_s: Array) -> tuple[float, list[int]]:
        """Return the gain a second of a build that begins with a point, and the points that it is measured at."""
        others = [place for place in np.flatnonzero(self.build == self.build[first]).tolist() if place != first]
        gain, seconds = float(self._gains(self.front, [first])[0]), float(self.timing_s[first] + image_s[first])
        at, row = self._with(self.front, first), [first]
        while others:
            more = self._gains(at, others)
            place = others.pop(int(np.argmax(more / image_s[others])))
            if more.max() <= 0 or float(self._gains(at, [place])[0]) / image_s[place] < gain / seconds:
                break
            gain, seconds = gain + float(self._gains(at, [place])[0]), seconds + float(image_s[place])
            at = self._with(at, place)
            row.append(place)
        return gain / seconds, row

    def _gains(self, front: Array, places: Sequence[int] | NDArray[np.int64]) -> Array:
        return gains(front, PENALTY_LIMIT, self.latency_s[places, None], self.penalty[places, None])[:, 0]

    def _with(self, front: Array, place: int) -> Array:
        return lowered(front, PENALTY_LIMIT, self.latency_s[[place]], self.penalty[[place]])

    def observe(self, outcome: Outcome) -> None:
        """Do nothing: all is known."""


def _numbered(keys: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of each key among the different ones."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys])

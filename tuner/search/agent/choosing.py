"""Weigh candidates against each other: the expected gain of hypervolume a second of GPU time."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tuner.records.codec import Values
from tuner.result import front
from tuner.search.agent.chances import Chances
from tuner.search.agent.costs import Costs
from tuner.search.agent.features import Array, Columns
from tuner.search.agent.observed import Observer
from tuner.search.agent.pool import Build, Pool
from tuner.search.agent.worth import LEVELS, MIN_TIMING_S, START_S, TIMING_CALLS, Bill, gains, level_of, lowered
from tuner.search.history import History, was_throttled
from tuner.search.strategy import SearchContext, random_state
from tuner.search.unknown import Known

DRAWS = 24
"""Draws of the effects (Thompson, Biometrika 1933), over which a gain is averaged."""

SPREAD = 0.4
"""The share of their uncertainty with which effects are drawn at first: the mean of gains prefers what is uncertain."""

SMALL_GAIN = 1e-3
"""An expected gain below which effects are drawn with all of their uncertainty."""

SHORTLIST = 16
"""Builds whose other step counts are weighed, too."""

ELITE = 6
"""Points of the front, and best builds, whose neighbours are compared."""

FURTHER = 60
"""Builds that differ from those in more values."""

LIMIT = 2.0
"""The loss of quality up to which a gain counts, in tolerated losses."""

COMPILE_MARGIN, FIRST_COMPILE_MARGIN = 1.2, 1.5
"""A build is not begun if its expected compile time is more than this times its limit. Before anything was compiled the
expectation is that of a large model, and too long for a small one."""

NORMAL_COLUMNS = 1200
"""Normal numbers for each draw: more than effects are modelled."""


@dataclass(frozen=True)
class Choice:
    """A build to try, first at `values` and then at other step counts, with its expected gain and seconds.

    The gain is a share of the hypervolume.
    """

    values: Values
    steps: tuple[int, ...]
    gain: float
    seconds: float

    @property
    def rate(self) -> float:
        """The expected gain a second."""
        return self.gain / self.seconds


class Chooser:
    """What stays the same from choice to choice: the settings, and the builds with what follows from their values."""

    def __init__(self, history: History, context: SearchContext) -> None:
        self.context = context
        self.columns = Columns(history.space)
        self.observer = Observer(self.columns)
        liked = history.warm_start.front if history.warm_start else ()
        self.pool = Pool(history.space, self.columns, context.seed, liked)

    def choose(self, history: History) -> Choice | None:
        """Return what gains most a second, or None if nothing unknown is left in the pool."""
        with threadpool_limits(1, "blas"):  # threads that wait for one another take longer than these small products
            comparison = Comparison(self, history)
            choice = self.best(comparison, SPREAD)
            return self.best(comparison, 1.0) if choice is not None and choice.gain < SMALL_GAIN else choice

    def best(self, comparison: Comparison, spread: float) -> Choice | None:
        """Return what gains most a second if effects are drawn with this share of their uncertainty."""
        chance = comparison.draw(spread)
        elite = chance.sample(comparison.front_values, min(ELITE, len(comparison.front_values)))
        near = self.pool.near(chance, elite, FURTHER)
        choices = comparison.compared(self.pool.always + near)
        choices += comparison.compared(self.pool.near(chance, [choice.values for choice in choices[:ELITE]], FURTHER))
        return max(choices, key=lambda choice: choice.rate, default=None)


@dataclass(frozen=True)
class Points:
    """The points of builds that are compared, one after the other, and what is predicted of each."""

    builds: Sequence[Build]
    owner: NDArray[np.int64]
    values: Sequence[Values]
    latency_s: Array
    loss: Array
    chance: Array
    compiles_in_time: NDArray[np.bool_]
    image_s: Array
    timing_s: Array
    begin_s: Array


class Comparison:
    """The models, the front and the costs of one choice."""

    def __init__(self, chooser: Chooser, history: History) -> None:
        self.trials = chooser.observer.trials(history)
        self.running = [values for flight in history.running for values in flight.sweep]
        self.front_values = [each.values for each in front.pareto_front([trial.outcome for trial in self.trials])]
        self.columns = chooser.columns
        self.seed = random_state(chooser.context, history)
        scale = history.space.tolerance or 1.0
        self.limit = LIMIT * scale
        is_on_cpu = history.baseline.device is not None and history.baseline.device.name == "cpu"
        self.costs = Costs(history, self.trials, self.columns, scale)
        self.longest_compile_s = self.accepted_compile_s(history.compile_limit_s or math.inf)
        keys = {trial.outcome.number: trial.key for trial in self.trials}
        self.known = Known(history, lambda outcome: keys[outcome.number])
        self.known.candidates |= {trial.key for trial in self.trials if was_throttled(trial.outcome)}
        self.chances = Chances(self.trials, history.refused, self.columns)
        self.bill = Bill(
            self.trials, self.running, chooser.context.slots, len(history.space.workload.prompts), is_on_cpu=is_on_cpu
        )
        ceiling = front.seconds_per_image(history.baseline).value
        self.measured = self.measured_front(ceiling)
        self.area = max(float((ceiling - self.measured).sum()), 0.01 * ceiling * LEVELS) * self.limit / LEVELS

    def accepted_compile_s(self, limit_s: float) -> float:
        """Return how long a build may be expected to compile, where it is stopped after `limit_s`.

        Before anything was compiled one build at a time may be a gamble: three whole UNets of SDXL were once begun
        together, and all three were stopped.
        """
        if self.costs.has_compiled:
            return COMPILE_MARGIN * limit_s
        is_gambling = bool((self.costs.first_call_s(self.columns.rows(self.running)) > limit_s).any())
        return limit_s if is_gambling else FIRST_COMPILE_MARGIN * limit_s

    def draw(self, spread: float) -> random.Random:
        """Draw the effects anew with a share of their uncertainty. Return what else is random."""
        chance = random.Random(self.seed)  # noqa: S311
        generator = np.random.default_rng(chance.getrandbits(64))
        self.normal = spread * generator.standard_normal((DRAWS, NORMAL_COLUMNS))
        self.front = np.tile(self.measured, (DRAWS, 1))
        if self.running:
            latency_s, loss = self.costs.predict(self.columns.rows(self.running), _steps(self.running), self.normal)
            for place in range(len(self.running)):
                self.front = lowered(self.front, self.limit, latency_s[place], loss[place])
        return chance

    def measured_front(self, ceiling: float) -> Array:
        """Return the least latency per image that was measured up to each level of loss."""
        points = [
            (trial.loss, trial.latency_s)
            for trial in self.trials
            if trial.is_measured and front.meets_target(trial.outcome)
        ]
        loss, latency_s = np.array(points).reshape(-1, 2).T
        least = np.full(LEVELS + 1, ceiling)
        np.minimum.at(least, level_of(loss, self.limit), latency_s)
        return np.asarray(np.minimum.accumulate(least[:LEVELS]))

    def compared(self, builds: Sequence[Build]) -> list[Choice]:
        """Return the best choices among builds, best first."""
        unknown = [build for build in builds if build.key not in self.known.builds]
        if not unknown:
            return []
        points = self.points(unknown)
        is_new = np.array([key not in self.known.candidates for build in unknown for key in build.keys])
        gained = gains(self.front, self.limit, points.latency_s, points.loss).mean(axis=1) * points.chance
        is_eligible = is_new & points.compiles_in_time
        rates = np.where(is_eligible, gained / self.bill.seconds(points.begin_s, points.timing_s, points.image_s), -1.0)
        places: dict[int, list[int]] = {}
        for place in np.argsort(-rates, kind="stable").tolist():
            if is_eligible[place] and (len(places) < SHORTLIST or points.owner[place] in places):
                places.setdefault(int(points.owner[place]), []).append(place)
        choices = [self.with_steps(points, own) for own in places.values()]
        return sorted(choices, key=lambda choice: -choice.rate)

    def points(self, builds: Sequence[Build]) -> Points:
        """Return the points of builds with what is predicted of them."""
        rows = np.concatenate([build.rows for build in builds])
        counts = [len(build.points) for build in builds]
        owner = np.repeat(np.arange(len(builds), dtype=np.int64), counts)
        steps = np.concatenate([build.steps for build in builds])
        latency_s, loss = self.costs.predict(rows, steps, self.normal)
        mean_s = np.median(latency_s, axis=1)
        batches = [float(values["batch"]) for build in builds for values in build.points]
        call_s = mean_s * np.array(batches)
        compile_s = self.costs.first_call_s(rows)
        return Points(
            builds=builds,
            owner=owner,
            values=[values for build in builds for values in build.points],
            latency_s=latency_s,
            loss=self.bill.with_known(builds, loss),
            chance=self.chances.of(rows),
            compiles_in_time=compile_s <= self.longest_compile_s,
            image_s=mean_s * self.bill.images_of(builds),
            timing_s=np.maximum(TIMING_CALLS * call_s, MIN_TIMING_S),
            begin_s=START_S + compile_s * self.bill.compiled_share(builds)[owner],
        )

    def with_steps(self, points: Points, places: Sequence[int]) -> Choice:
        """Return the choice of a build: its best point, and others while they raise the gain a second."""
        first, *others = places
        at, steps, gain = self.front, [], 0.0
        image_s, place = np.array(0.0), first
        while True:
            gain += float(gains(at, self.limit, points.latency_s[[place]], points.loss[[place]]).mean())
            image_s = image_s + points.image_s[place]
            seconds = float(self.bill.seconds(points.begin_s[first], points.timing_s[first], image_s))
            at = lowered(at, self.limit, points.latency_s[place], points.loss[place])
            if not others:
                break
            more = gains(at, self.limit, points.latency_s[others], points.loss[others]).mean(axis=1)
            longer_s = image_s + points.image_s[others]
            more_s = self.bill.seconds(points.begin_s[first], points.timing_s[first], longer_s) - seconds
            rates = more / np.maximum(more_s, 1e-9)
            if rates.max() < gain / seconds:
                break
            place = others.pop(int(rates.argmax()))
            steps.append(int(points.values[place]["steps"]))
        return Choice(points.values[first], tuple(steps), float(points.chance[first]) * gain / self.area, seconds)


def _steps(candidates: Sequence[Values]) -> Array:
    return np.array([float(values["steps"]) for values in candidates])

"""What a trial is worth: the hypervolume that it gains, and the GPU seconds that it takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tuner.records.codec import Values
from tuner.search.agent.features import Array
from tuner.search.agent.observed import Observed, judged
from tuner.search.agent.pool import Build, code
from tuner.search.budget import CACHED_SHARE
from tuner.search.history import BASELINE
from tuner.space.candidates import image_key

START_S = 4.0
"""Seconds until a worker has the weights."""

TIMING_CALLS = 7.0
"""Whole calls, each of a batch, that it takes to warm up and to time a build."""

MIN_TIMING_S = 8.0
"""Seconds that this takes at least."""

NEW_IMAGES, KNOWN_IMAGES = 8, 2
"""Images that are drawn to judge a new image key, before a study has judged any, and one that was judged."""

LEVELS = 256
"""Levels of loss at which a front is looked at."""


def level_of(loss: Array, limit: float) -> NDArray[np.int64]:
    """Return the first level that is not below a loss; `LEVELS` if none is."""
    return np.clip(np.ceil(loss / limit * LEVELS - 1e-9).astype(np.int64) - 1, 0, LEVELS)


def gains(front: Array, limit: float, latency_s: Array, loss: Array) -> Array:
    """Return the hypervolume that each candidate adds to a front, for each draw.

    `front` has the least latency up to each level of loss, a row a draw. `latency_s` and `loss` have a row a candidate
    and a column a draw.
    """
    draws = np.arange(len(front))
    sums = np.concatenate([np.zeros((len(front), 1)), front.cumsum(axis=1)], axis=1)
    apart_s = draws * (front.max() + 1.0)  # all draws in one search: each front lies beyond the one before
    places = np.searchsorted((apart_s[:, None] - front).ravel(), apart_s - latency_s) - draws * LEVELS
    start = level_of(loss, limit)
    end = np.maximum(places, start)
    found: Array = sums[draws, end] - sums[draws, start] - (end - start) * latency_s
    return found * (limit / LEVELS)


def lowered(front: Array, limit: float, latency_s: Array, loss: Array) -> Array:
    """Return a front with one more candidate, for each draw."""
    is_within = np.arange(LEVELS) >= level_of(loss, limit)[:, None]
    return np.where(is_within, np.minimum(front, latency_s[:, None]), front)


class Bill:
    """The GPU seconds that builds and their images take, as far as they are known before."""

    def __init__(
        self, trials: Sequence[Observed], running: Sequence[Values], slots: int, prompts: int, *, is_on_cpu: bool
    ) -> None:
        self.slots = slots
        self.is_on_cpu = is_on_cpu
        candidates = [trial.outcome for trial in judged(trials) if trial.outcome.number != BASELINE]
        counts = [len(outcome.quality.scores) for outcome in candidates if outcome.quality is not None]
        self.new_images = (min(NEW_IMAGES, prompts) + sum(counts)) / (1 + len(counts))
        self.loss = {trial.outcome.image_key: trial.loss for trial in trials if trial.outcome.quality is not None}
        self.images = self.loss.keys() | {image_key(values) for values in running}
        self.codes = {trial.code for trial in trials if trial.outcome.build is not None} | set(map(code, running))

    def with_known(self, builds: Sequence[Build], loss: Array) -> Array:
        """Return the loss of each point, measured where its images were judged."""
        images = [image for build in builds for image in build.images]
        known = [(place, self.loss[image]) for place, image in enumerate(images) if image in self.loss]
        for place, points in known:
            loss[place] = points
        return loss

    def images_of(self, builds: Sequence[Build]) -> Array:
        """Return how many images judge each point."""
        known = [image in self.images for build in builds for image in build.images]
        return np.where(known, float(KNOWN_IMAGES), self.new_images)

    def compiled_share(self, builds: Sequence[Build]) -> Array:
        """Return the share of its compile time that each build takes: less if its code was compiled before."""
        return np.array([CACHED_SHARE if build.code in self.codes else 1.0 for build in builds])

    def seconds(self, begin_s: Array, timing_s: Array, image_s: Array) -> Array:
        """Return the seconds that builds take from a study.

        While one is timed all others stand still. On a GPU they start and compile while images are generated: only the
        longer of the two counts, of beginning and images each worker's share. On a CPU images are generated alone, too.
        """
        if self.is_on_cpu:
            return timing_s + image_s + begin_s / self.slots
        return timing_s + np.maximum(image_s, (begin_s + image_s) / self.slots)

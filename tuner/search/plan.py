"""Estimate from one call what the baseline and each further build will take, and which budget is enough.

Calls are counted in the order in which a worker makes them. The estimate errs towards too long: fixed costs of a call
are taken to grow with its steps, and the first call may still have set something up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tuner.timing.measure import MIN_SLOW_SAMPLES, SLOW_CALL_S
from tuner.timing.prediction import SHORT_STEPS, step_counts_to_measure

WARM_UP_CALLS = 3
"""Calls until a warm-up has settled, on the untouched pipeline."""

TRACED_STEPS = 12
"""Steps that are made to trace: the profiler's three, with those before, and again for source lines."""

QUICK_CALLS = 9
"""Calls to time a point whose calls are quick: to warm up, six that count, and one to see where the time goes."""

VARIED_CALLS = 13
"""Calls that the baseline alone makes: four prompts each by another kernel, at another place and from another seed,
and one that records the denoiser."""

PROBE_S = {"cpu": 30.0, "cuda": 5.0}
"""Seconds in which the baseline measures how fast the device is."""

GOOD_BUILDS = 8
"""A search of fewer builds hardly gets beyond the recipes."""

RESERVED_RUNS = 6
"""Processes that confirm the result: three pairs."""

ROUND_TO_S = ((600.0, 60.0), (3600.0, 300.0), (math.inf, 1800.0))
"""Up to how many seconds a budget is rounded up to what."""


@dataclass(frozen=True)
class Observed:
    """What is known after a call: seconds until the pipeline stood ready, and a call's steps and seconds."""

    start_s: float
    call_steps: int
    call_s: float

    def calls_s(self, steps: float, calls: float = 1.0) -> float:
        """Return the seconds of so many calls of so many steps."""
        return self.call_s * steps / self.call_steps * calls


@dataclass(frozen=True)
class Work:
    """What a build is measured at: its step counts, the one asked for first, how many prompts at which batch, where."""

    steps: Sequence[int]
    prompts: int
    batch: int
    device: str


@dataclass(frozen=True)
class Plan:
    """What a study will take, in seconds: the baseline's trial, that with its repetition, a build, the confirmation."""

    trial_s: float
    baseline_s: float
    build_s: float
    confirmation_s: float

    def builds(self, budget_s: float) -> int:
        """Return how many builds besides the baseline fit into a budget."""
        return max(0, math.floor((budget_s - self.baseline_s - self.confirmation_s) / self.build_s))

    @property
    def enough_s(self) -> float:
        """The budget for a search of a good many builds, rounded up."""
        needed_s = self.baseline_s + self.confirmation_s + GOOD_BUILDS * self.build_s
        unit_s = next(unit_s for limit_s, unit_s in ROUND_TO_S if needed_s <= limit_s)
        return math.ceil(needed_s / unit_s) * unit_s


def make_plan(observed: Observed, work: Work) -> Plan:
    """Return the plan that follows from an observed call."""
    build_s = point_s(observed, work) + observed.start_s
    repetition_s = observed.start_s + settling_s(observed, work) + timing_s(observed, work.steps[0])
    trial_s = build_s + PROBE_S[work.device] + observed.calls_s(work.steps[0], VARIED_CALLS)
    return Plan(
        trial_s=trial_s,
        baseline_s=trial_s + repetition_s,
        build_s=build_s,
        confirmation_s=RESERVED_RUNS * repetition_s,
    )


def point_s(observed: Observed, work: Work) -> float:
    """Return the seconds to settle a build, to time it, and to generate the images of every step count."""
    timed_s = sum(timing_s(observed, steps) for steps in timed_steps(observed, work))
    images_s = observed.calls_s(sum(work.steps), math.ceil(work.prompts / work.batch))
    return settling_s(observed, work) + observed.calls_s(TRACED_STEPS) + timed_s + images_s


def settling_s(observed: Observed, work: Work) -> float:
    """Return the seconds of the first call and the warm-up, which have few steps."""
    return observed.calls_s(min(work.steps[0], *SHORT_STEPS), 1 + WARM_UP_CALLS)


def timed_steps(observed: Observed, work: Work) -> set[int]:
    """Return the step counts that are timed: a slow call is put together from calls of fewer steps."""
    if is_slow(observed, work.steps[0]):
        return {min(work.steps[0], steps) for steps in SHORT_STEPS}
    return step_counts_to_measure(list(work.steps))


def timing_s(observed: Observed, steps: int) -> float:
    """Return the seconds to time calls of so many steps."""
    if not is_slow(observed, steps):
        return observed.calls_s(steps, QUICK_CALLS)
    return sum(observed.calls_s(min(steps, short), MIN_SLOW_SAMPLES + 2) for short in SHORT_STEPS)


def is_slow(observed: Observed, steps: int) -> bool:
    """Return whether a call of so many steps counts as slow."""
    return observed.calls_s(steps) >= SLOW_CALL_S

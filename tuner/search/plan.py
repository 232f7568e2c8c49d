"""Estimate from one call what the baseline and each further build will take, and which budget is enough.

Calls are counted in the order in which a worker makes them. The estimate errs towards too long: fixed costs of a call
are taken to grow with its steps, and the first call may still have set something up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tuner.quality import race
from tuner.search.budget import REFERENCE_SHARE
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

MINUTES = (2, 3, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 480, 720, 1440, 2880, 5760, 11520)
"""Budgets that are recommended."""


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
    """What a study of a budget will take, in seconds.

    The baseline's first step count and its repetition are measured whatever they take (`least_s`), its other step
    counts (`sweep_s`) while there is time. A build is taken to be judged by as few prompts as can be enough.
    """

    budget_s: float
    least_s: float
    sweep_s: float
    repetition_s: float
    build_s: float

    @property
    def baseline_s(self) -> float:
        """What the baseline takes, with its repetition."""
        return max(self.least_s, min(self.least_s + self.sweep_s, self.budget_s))

    @property
    def trial_s(self) -> float:
        """What the baseline takes without its repetition."""
        return self.baseline_s - self.repetition_s

    @property
    def builds(self) -> int:
        """How many builds fit into the budget besides the baseline and the confirmation."""
        taken_s = self.least_s + self.sweep_s + RESERVED_RUNS * self.repetition_s
        return max(0, math.floor((self.budget_s - taken_s) / self.build_s))


def make_plan(observed: Observed, work: Work, budget_s: float) -> Plan:
    """Return the plan that follows from an observed call for a budget."""
    prompts, first = judged_prompts(observed, work, budget_s), work.steps[0]
    ready_s = observed.start_s + settling_s(observed, work)
    repetition_s = ready_s + timing_s(observed, first)
    timed_s = sum(timing_s(observed, steps) for steps in timed_steps(observed, work))
    calls, raced_calls = (math.ceil(count / work.batch) for count in (prompts, race.MIN_PROMPTS_WITHIN))
    alone_s = PROBE_S[work.device] + observed.calls_s(first, VARIED_CALLS)
    once_s = ready_s + observed.calls_s(TRACED_STEPS) + timed_s
    return Plan(
        budget_s=budget_s,
        least_s=once_s + alone_s + observed.calls_s(first, calls) + repetition_s,
        sweep_s=observed.calls_s(sum(work.steps[1:]), calls),
        repetition_s=repetition_s,
        build_s=once_s + observed.calls_s(sum(work.steps), min(calls, raced_calls)),
    )


def enough_s(observed: Observed, work: Work) -> float:
    """Return a budget for a search of a good many builds. A longer budget also judges by more prompts."""
    budgets = (60.0 * minutes for minutes in MINUTES)
    fitting = (budget_s for budget_s in budgets if make_plan(observed, work, budget_s).builds >= GOOD_BUILDS)
    return next(fitting, 60.0 * MINUTES[-1])


def judged_prompts(observed: Observed, work: Work, budget_s: float) -> int:
    """Return how many prompts' images the baseline generates: as many as its share of the budget allows."""
    call_s = observed.calls_s(work.steps[0])
    affordable = REFERENCE_SHARE * budget_s / max(call_s, 1e-9) * work.batch
    looks = list(race.looks(work.prompts, work.batch))
    return max((prompts for prompts in looks if prompts <= affordable), default=looks[0])


def settling_s(observed: Observed, work: Work) -> float:
    """Return the seconds of the first call and the warm-up, which have few steps."""
    return observed.calls_s(min(work.steps[0], *SHORT_STEPS), 1 + WARM_UP_CALLS)


def timed_steps(observed: Observed, work: Work) -> set[int]:
    """Return the step counts that are timed. Of slow calls it is one: the others follow from the same short calls."""
    return {work.steps[0]} if is_slow(observed, work.steps[0]) else step_counts_to_measure(list(work.steps))


def timing_s(observed: Observed, steps: int) -> float:
    """Return the seconds to time calls of so many steps. A slow call is put together from calls of fewer steps."""
    if not is_slow(observed, steps):
        return observed.calls_s(steps, QUICK_CALLS)
    return sum(observed.calls_s(min(steps, short), MIN_SLOW_SAMPLES + 2) for short in SHORT_STEPS)


def is_slow(observed: Observed, steps: int) -> bool:
    """Return whether a call of so many steps counts as slow."""
    return observed.calls_s(steps) >= SLOW_CALL_S

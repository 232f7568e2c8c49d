"""Estimate from one call what the baseline and each further build will take, and which budget suits the size.

Calls are counted in the order in which a worker makes them. What no call tells is taken from records of other studies:
how long it takes to compile, to probe the device, and how many images leave no doubt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tuner.quality import race
from tuner.quality.panel import SPOT_CHECKED
from tuner.search.budget import CACHED_SHARE, MAX_RESERVED_SHARE, QUICK_BUDGET_S, timing_allowance_s
from tuner.search.gain import RESERVED_PAIRS
from tuner.timing.measure import LONG_CALL_S, MIN_PAIRED_SAMPLES, MIN_SLOW_SAMPLES, SLOW_CALL_S, SURELY_SLOW_S
from tuner.timing.prediction import COMPOSED_STEPS, WARM_UP_STEPS, composed_steps, step_counts_to_measure

WARM_UP_CALLS = 3
"""Calls until a warm-up has settled, on the untouched pipeline."""

TRACED_STEPS = 6
"""Steps that are made to trace: the profiler's three, with the one before, and two again for source lines."""

QUICK_CALLS = 9
"""Calls to time a point whose calls are quick: to warm up, six that count, and one to see where the time goes."""

VARIED_CALLS = 16
"""Calls that the baseline alone makes: four prompts each by another kernel, at another place, compiled and from another
seed."""

PROBE_S = {"cpu": 5.0, "cuda": 10.0}
"""Seconds in which the baseline measures how fast the device is."""

COMPILE_S = {"cpu": 15.0, "cuda": 45.0}
"""Seconds to compile, over builds that compile all, some or nothing. On an H200 a first call took 43 s (FLUX.1-dev,
regional), 20 s (Wan 2.1 1.3B, regional) and 146 s (SDXL, whole); later builds find some of the code in the cache."""

GOOD_BUILDS = 10
"""Builds that a budget must have room for to be called enough: the recipes, and a few that are searched. With eight
SDXL had 10 minutes, of which no build may compile for as long as its whole UNet does."""

MINUTES = (10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 480, 720, 1440, 2880, 5760, 11520)
BUDGETS_S = (QUICK_BUDGET_S, *(60.0 * minutes for minutes in MINUTES))
"""Budgets that are recommended."""


@dataclass(frozen=True)
class TimedCall:
    """What is known after a call of the untouched pipeline, in seconds.

    `once_s` passed before the first worker began: libraries and weights, which later workers find loaded. `start_s`
    passed from there to the call, which had so many steps and took `call_s`, of that `fixed_s` whatever the steps.
    """

    once_s: float
    start_s: float
    call_steps: int
    call_s: float
    fixed_s: float = 0.0

    def calls_s(self, steps: float, calls: float = 1.0) -> float:
        """Return the seconds of so many calls of so many steps."""
        return calls * (self.fixed_s + (self.call_s - self.fixed_s) * steps / self.call_steps)


@dataclass(frozen=True)
class Work:
    """What a build is measured at: its step counts, the one asked for first, how many prompts at which batch, where.

    The images of the baseline may take `reference_s`. Up to `slots` builds run at once on each of the `devices`.
    """

    steps: Sequence[int]
    prompts: int
    batch: int
    device: str
    reference_s: float
    slots: int = 1
    devices: int = 1


@dataclass(frozen=True)
class Plan:
    """What a study of a budget will take, in seconds.

    The baseline's first step count and its repetition are measured whatever they take (`least_s`), its other step
    counts (`sweep_s`) while there is time. `once_s` and `confirm_s` are what comes before it and after the search. A
    build takes `build_s`; since several run at once, one ends every `pace_s`.
    """

    budget_s: float
    call_s: float
    once_s: float
    least_s: float
    sweep_s: float
    repetition_s: float
    build_s: float
    pace_s: float
    confirm_s: float

    @property
    def baseline_s(self) -> float:
        """What the baseline takes, with its repetition."""
        return max(self.least_s, min(self.least_s + self.sweep_s, self.budget_s - self.once_s))

    @property
    def trial_s(self) -> float:
        """What the baseline takes without its repetition, once its worker has begun."""
        return self.baseline_s - self.repetition_s

    @property
    def builds(self) -> int:
        """How many builds fit into the budget besides the baseline and the confirmation."""
        taken_s = self.once_s + self.least_s + self.sweep_s + self.confirm_s
        return max(0, math.floor((self.budget_s - taken_s) / self.pace_s))


def make_plan(observed: TimedCall, work: Work, budget_s: float) -> Plan:
    """Return the plan that follows from an observed call for a budget."""
    first, *others = work.steps
    calls = math.ceil(judged_prompts(observed, work) / work.batch)
    ready_s = observed.start_s + observed.calls_s(min(first, WARM_UP_STEPS), 1 + WARM_UP_CALLS)
    is_long = is_composed(observed, work) and observed.calls_s(first) >= LONG_CALL_S
    paired_s = ready_s + whole_timing_s(observed, work, budget_s)
    repetition_s = ready_s + timing_s(observed, work, budget_s) if is_long else paired_s
    built_s = ready_s + observed.calls_s(TRACED_STEPS) + timing_s(observed, work, budget_s)
    is_slow = observed.calls_s(first) >= SLOW_CALL_S
    varied = varied_slow_calls(observed, work) if is_slow else VARIED_CALLS
    alone_s = PROBE_S[work.device] + observed.calls_s(first, varied)
    compile_s = COMPILE_S[work.device]
    busy_s = built_s - observed.start_s + images_s(observed, work, calls)
    build_s = observed.start_s + compile_s + busy_s
    pairs = 1 if is_long else RESERVED_PAIRS
    return Plan(
        budget_s=budget_s,
        call_s=observed.calls_s(first),
        once_s=observed.once_s,
        least_s=built_s + alone_s + observed.calls_s(first, calls) + repetition_s,
        sweep_s=0.0 if is_composed(observed, work) else sum(observed.calls_s(steps, calls) for steps in others),
        repetition_s=repetition_s,
        build_s=build_s,
        pace_s=max(busy_s, build_s / work.slots) / work.devices,
        confirm_s=min(pairs * (2 * paired_s + CACHED_SHARE * compile_s), MAX_RESERVED_SHARE * budget_s),
    )


def enough_s(observed: TimedCall, work: Work) -> float:
    """Return the budget that suits the size: that of quick calls, or the least with room for a good many builds."""
    fitting = (budget_s for budget_s in BUDGETS_S if make_plan(observed, work, budget_s).builds >= GOOD_BUILDS)
    return next(fitting, BUDGETS_S[-1])


def judged_prompts(observed: TimedCall, work: Work) -> int:
    """Return how many prompts' images the baseline generates: as many as `reference_s` allows."""
    call_s = max(observed.calls_s(work.steps[0]), 1e-9)
    affordable = work.reference_s / call_s * work.batch
    return race.reference_prompts(work.prompts, work.batch, affordable, is_slow=call_s >= SLOW_CALL_S)


def varied_slow_calls(observed: TimedCall, work: Work) -> int:
    """Return how many slow calls the baseline alone makes: two prompts from other seeds, two by another kernel."""
    affordable = work.reference_s / max(observed.calls_s(work.steps[0]), 1e-9)
    sets = race.further_sets(judged_prompts(observed, work), work.batch, affordable)
    return sets * race.set_calls(work.batch)


def images_s(observed: TimedCall, work: Work, calls: int) -> float:
    """Return the seconds of a build's images. Of slow calls only those of the first step count are judged."""
    judged = work.steps[:1] if is_composed(observed, work) else work.steps
    return sum(observed.calls_s(steps, usual_calls(calls)) for steps in judged)


def usual_calls(calls: int) -> float:
    """Return how many calls judge a point of a build. Half of the builds draw known images, the others race."""
    return (SPOT_CHECKED + min(calls, race.MIN_PROMPTS_WITHIN)) / 2


def timing_s(observed: TimedCall, work: Work, budget_s: float) -> float:
    """Return the seconds to time a build. Slow calls of a GPU are composed from a few short ones."""
    if is_composed(observed, work):
        steps = composed_steps(observed.calls_s(WARM_UP_STEPS) / WARM_UP_STEPS)
        return observed.calls_s(steps, 1 + MIN_SLOW_SAMPLES)
    counts = step_counts_to_measure(list(work.steps))
    return sum(quick_timing_s(observed, work, steps, budget_s) for steps in counts)


def whole_timing_s(observed: TimedCall, work: Work, budget_s: float) -> float:
    """Return the seconds to time whole calls of the first step count, as one of a pair does."""
    if is_composed(observed, work):
        is_surely_slow = observed.calls_s(work.steps[0]) >= SURELY_SLOW_S
        return observed.calls_s(work.steps[0], MIN_PAIRED_SAMPLES if is_surely_slow else MIN_SLOW_SAMPLES + 1)
    return quick_timing_s(observed, work, work.steps[0], budget_s)


def quick_timing_s(observed: TimedCall, work: Work, steps: int, budget_s: float) -> float:
    """Return the seconds to time whole calls. On a CPU they vary, so that all of the allowance is spent."""
    least_s = observed.calls_s(steps, QUICK_CALLS)
    return max(least_s, timing_allowance_s(budget_s)) if work.device == "cpu" else least_s


def is_composed(observed: TimedCall, work: Work) -> bool:
    """Return whether the latency of a call is composed from calls with fewer steps."""
    first = work.steps[0]
    is_slow = work.device == "cuda" and observed.calls_s(first) >= SLOW_CALL_S
    return is_slow and first > COMPOSED_STEPS

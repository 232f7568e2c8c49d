"""The time and the number of trials that a study may use, and what its next steps will take."""

from __future__ import annotations

import math
import sys
import time

import msgspec

from tuner.quality.race import FIRST_PROMPTS
from tuner.records.outcome import Limits, Outcome
from tuner.result.front import seconds_per_image
from tuner.search.history import BASELINE, History
from tuner.timing.measure import LONG_CALL_S, MIN_PAIRED_SAMPLES, MIN_SLOW_SAMPLES, SURELY_SLOW_S

MIN_CALLS = 12
"""Calls of a repetition: about five to warm up, six that are timed, and one to see where the time goes."""

FIRST_CALLS = 5
"""Calls that the baseline's first repetition comes to, at least: of slow calls two to warm up, three that are timed."""

SURELY_SLOW_CALLS = 3
"""The same of calls that need no warm-up in a pair, beside its build: two that are timed, and some of a few steps."""

CACHED_SHARE = 0.4
"""The share of a first call's time that it takes where the compiler's cache has the code. Measured: 0.27 (the demo
compiled whole, on a CPU) to 0.41 (FLUX.1-dev's blocks, on an H200)."""

WARM_UPS = 2
"""First calls that building and warming up once more come to, where calls are long: both are of a few steps."""

COMPILE_SHARE = 1 / 6
"""The share of the budget that one build may compile. Of 20 minutes it lets a whole UNet be compiled (146 s alone on an
H200), but not FLUX.1-dev with max-autotune, which was not done after 360 s and kept three workers from all else."""

MIN_COMPILE_LIMIT_S = 80.0
"""The same of short budgets, enough to compile the demo whole on a CPU."""

MAX_COMPILE_LIMIT_S = 900.0
"""The same of long budgets: a worker that compiles for longer counts as hung."""

REFERENCE_SHARE = 0.12
"""The share of the budget that generating the baseline's images may take. Of the 72 images of the default prompts that
is all where a call takes 0.5 s and the budget is 330 s, and 16 where a call takes 5 s and the budget is 20 minutes."""

SWEEP_SHARE = 0.01
"""The share of the budget that judging the other step counts of one build may take if its calls are slow. In 20 minutes
that lets images be compared with known ones, not judged: only the best builds' other step counts are worth more."""

MAX_RESERVED_SHARE = 1 / 3
"""The share of the budget that may be kept for pairs of a trial that has not been found yet."""

QUICK_BUDGET_S = 330.0
"""The budget that suits quick calls, such as the demo's."""

SLOW_BUDGET_S = 1200.0
"""The budget that suits calls of some seconds; the baseline's images are drawn for it before a call was timed."""


def has_reached(finished: Limits, asked: Limits, spent_s: float) -> bool:
    """Return whether a run that came to its end within its limits has done what others ask for.

    It need not have had so long a budget if the study has used that time.
    """
    is_used = asked.budget_s is not None and asked.budget_s <= spent_s
    return finished.cover(msgspec.structs.replace(asked, budget_s=finished.budget_s) if is_used else asked)


def timing_allowance_s(budget_s: float) -> float:
    """Return the seconds that timing one point may take."""
    return min(max(budget_s / 150, 2.0), 20.0)


class Budget:
    """The limits of a study, counted from its first run on. Until its budget is chosen it has no end."""

    def __init__(self, limits: Limits, spent_s: float = 0.0) -> None:
        self.limits = limits
        self.started = time.monotonic() - spent_s

    @property
    def total_s(self) -> float:
        """Seconds that the study may use."""
        return math.inf if self.limits.budget_s is None else self.limits.budget_s

    @property
    def ends_at(self) -> float:
        """When the time is up, by `time.monotonic()`."""
        return self.started + self.total_s

    @property
    def spent_s(self) -> float:
        """Seconds that this study has used, over all its runs."""
        return time.monotonic() - self.started

    def seconds_left(self) -> float:
        """Return how much of the time is left."""
        return self.ends_at - time.monotonic()

    def trials_left(self, history: History) -> int:
        """Return how many more trials may be recorded, those to come of running builds not counted."""
        return max(0, (self.limits.max_trials or sys.maxsize) - len(history.outcomes) - history.pending)

    @property
    def compile_limit_s(self) -> float:
        """Seconds after which a configuration compiles for too long: others would tell more in that time."""
        share_s = COMPILE_SHARE * (self.limits.budget_s or QUICK_BUDGET_S)
        return min(max(share_s, MIN_COMPILE_LIMIT_S), MAX_COMPILE_LIMIT_S)

    @property
    def reference_s(self) -> float:
        """Seconds that generating the baseline's images may take: they gain nothing by themselves."""
        return REFERENCE_SHARE * (self.limits.budget_s or SLOW_BUDGET_S)

    @property
    def sweep_s(self) -> float:
        """Seconds that judging the other step counts of one build with slow calls may take."""
        return SWEEP_SHARE * (self.limits.budget_s or SLOW_BUDGET_S)

    @property
    def timing_allowance_s(self) -> float:
        """Seconds that timing one point may take."""
        return timing_allowance_s(self.limits.budget_s or QUICK_BUDGET_S)


def has_long_calls(history: History) -> bool:
    """Return whether a whole call of the baseline is known to be long, and was composed from short ones."""
    baseline = history.outcomes.get(BASELINE)
    timing = baseline.timing if baseline is not None else None
    return timing is not None and bool(timing.predicted_from) and timing.latency_s.value >= LONG_CALL_S


def repetition_s(history: History, outcome: Outcome) -> float:
    """Estimate the seconds of a repetition: those of an earlier one, or the baseline's and what the trial adds.

    One of a pair tells more: its calls are fewer where they are slow.
    """
    assert outcome.build is not None and outcome.timing is not None
    if has_long_calls(history):
        return long_repetition_s(history, outcome)
    baseline, earlier = history.baseline, history.repetitions_of(outcome)
    earlier = [run for run in earlier if run.quality is None]  # else its images took most of the time
    walls = [run.wall_s for run in earlier if run.pair] or [run.wall_s for run in earlier]
    if walls or outcome.number == baseline.number:
        return max(walls, default=first_repetition_s(outcome))
    assert baseline.timing is not None
    slower_s = max(0.0, outcome.timing.latency_s.value - baseline.timing.latency_s.value)
    return repetition_s(history, baseline) + CACHED_SHARE * outcome.build.first_call_s + MIN_CALLS * slower_s


def first_repetition_s(baseline: Outcome) -> float:
    """Estimate the seconds of the baseline's first repetition."""
    assert baseline.build is not None and baseline.timing is not None
    call_s = baseline.timing.latency_s.value
    if call_s < SURELY_SLOW_S or baseline.timing.predicted_from is None:
        return FIRST_CALLS * call_s
    return baseline.build.load_s + baseline.build.first_call_s + SURELY_SLOW_CALLS * call_s


def long_repetition_s(history: History, outcome: Outcome) -> float:
    """Estimate the seconds of one of a pair with long calls: those of an earlier one, or its build and two calls."""
    assert outcome.build is not None and outcome.timing is not None
    walls = [run.wall_s for run in history.repetitions_of(outcome) if run.pair]
    call_s = outcome.timing.latency_s.value
    return max(walls, default=ready_s(outcome) + MIN_PAIRED_SAMPLES * call_s)


def ready_s(outcome: Outcome) -> float:
    """Estimate the seconds until a trial with long calls is built and warmed up again: its compiled code is known."""
    assert outcome.build is not None
    first_call_s = outcome.build.first_call_s
    if outcome.build.compile_s:
        first_call_s *= CACHED_SHARE
    return outcome.build.load_s + outcome.build.apply_s + WARM_UPS * first_call_s


def lone_repetition_s(history: History) -> float:
    """Estimate the seconds of a repetition of the baseline by itself whose long calls are composed from short ones."""
    baseline = history.baseline
    assert baseline.build is not None
    return ready_s(baseline) + (1 + MIN_SLOW_SAMPLES) * baseline.build.first_call_s


def pair_s(history: History, candidate: Outcome) -> float:
    """Estimate the seconds of one pair of baseline and candidate."""
    return repetition_s(history, candidate) + repetition_s(history, history.baseline)


def quickest_build_s(history: History) -> float:
    """Return the seconds that the quickest build took until its first point was measured, or it was rejected.

    Of the baseline, which also generates what others are judged against, a repetition counts: no build is quicker. Long
    calls are judged on a few images at least.
    """
    if has_long_calls(history):
        timed = [outcome for outcome in history.outcomes.values() if outcome.timing is not None]
        image_s = min(seconds_per_image(outcome).value for outcome in timed)
        return lone_repetition_s(history) + FIRST_PROMPTS * image_s
    first: dict[str, float] = {}
    for outcome in (*history.repetitions_of(history.baseline), *history.outcomes.values()):
        if outcome.status != "failed":
            first.setdefault(outcome.build_key, outcome.wall_s)
    return min(first.values(), default=0.0)

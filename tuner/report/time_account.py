"""Where the time of a study went, computed from the log of its stages and its outcomes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from statistics import median
from typing import NamedTuple

import msgspec

from tuner.records.codec import Count, NonNegative, Record, Seconds, Share
from tuner.records.stages import DONE, END, STILL, StageEntry, Who
from tuner.search.gain import is_confirmed
from tuner.search.history import BASELINE, History

ACTIVITIES = (
    "reference images",
    "candidates' images",
    "timing",
    "repetitions",
    "trace and gate",
    "warm-up",
    "judging finalists",
    "load and build",
    "compile",
    "waiting",
)
"""What the time can go into. Where several workers do something at a time, that instant counts for what comes first."""

USEFUL = ACTIVITIES[:6]
"""What the device has to do for a study. While something is only loaded, compiled or judged, it counts as idle."""

OF_STAGE = {
    "start": "load and build",
    "load": "load and build",
    "apply": "load and build",
    "compile": "compile",
    "first call": "warm-up",
    "warm up": "warm-up",
    "trace": "trace and gate",
    "probe": "trace and gate",
    "time": "timing",
    "await": "waiting",
    "score": "candidates' images",
    "vary": "candidates' images",
    "judge": "judging finalists",
    DONE: "waiting",
}

AFTER_TIMING = ("await", "score")
"""The stages of a build on a GPU whose candidate is timed."""

OF_REPETITION = {"first call": "repetitions", "warm up": "repetitions", "time": "repetitions"}
OF_BASELINE = {"score": "reference images", "vary": "reference images"}


class Spent(Record):
    """Seconds, and their share of the wall time."""

    seconds: Seconds
    share: Share


class TimeAccount(Record):
    """The time of a study over all its runs, from when the first one began.

    `activities` add up to the wall time. `useful_share` is the share of it in which the device did what the study
    needs. `parent_cpu` is what the command itself used, without the workers. `builds` counts distinct builds with an
    outcome, the untouched pipeline among them; `unfinished` has trials that were stopped without one, each with its
    last stage. `budget_s` is what the last run was given. Medians: `start_s` of a worker until its first call,
    `repetition_s` of a repetition in a fresh process; neither counts waiting.
    """

    wall_s: Seconds
    activities: dict[str, Spent]
    useful_share: Share
    parent_cpu_s: NonNegative
    parent_cpu_share: NonNegative
    builds: Count
    first_gain_s: Seconds | None
    start_s: Seconds | None
    repetition_s: Seconds | None
    unfinished: dict[Count, str] = msgspec.field(default_factory=dict)
    budget_s: Seconds | None = None

    @property
    def only_timed(self) -> int:
        """How many builds were timed, and stopped before they were judged."""
        return sum(stage in AFTER_TIMING for stage in self.unfinished.values())

    @property
    def over_budget_s(self) -> float:
        """How much longer than its budget the study took."""
        return max(0.0, self.wall_s - self.budget_s) if self.budget_s is not None else 0.0


class Span(NamedTuple):
    """A worker did one thing from one time to another, in seconds since the study began."""

    activity: str
    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end_s - self.start_s


@dataclass
class Worker:
    """What one worker did, and whether it came to its end with an answer."""

    who: Who
    number: int
    spans: list[Span] = field(default_factory=list)
    has_answered: bool = False

    def seconds(self) -> float:
        """Return how long it did anything but wait."""
        return sum(span.seconds for span in self.spans if span.activity != "waiting")

    def start_s(self) -> float | None:
        """Return how long it took until its first call; None if it never came to that."""
        before = list(takewhile(lambda span: span.activity in ("load and build", "waiting"), self.spans))
        loading = (span.seconds for span in before if span.activity == "load and build")
        return sum(loading) if len(before) < len(self.spans) else None


@dataclass
class Timeline:
    """The workers of a study, and how much time all runs took. Time between two runs does not count."""

    workers: list[Worker] = field(default_factory=list)
    wall_s: float = 0.0
    cpu_s: float = 0.0


def make_account(entries: Sequence[StageEntry], history: History, budget_s: float | None = None) -> TimeAccount | None:
    """Return the account of a study; None if nothing was logged, as by earlier versions."""
    timeline = make_timeline(entries)
    if timeline.wall_s <= 0:
        return None
    seconds = divide([span for worker in timeline.workers for span in worker.spans], timeline.wall_s)
    shares = {name: min(1.0, value / timeline.wall_s) for name, value in seconds.items()}
    workers = [worker for worker in timeline.workers if worker.who in ("build", "repetition")]
    judging = {run.repetition for run in history.repetitions if run.quality is not None}  # their images take longest
    plain = [worker for worker in workers if worker.who == "repetition" and worker.number not in judging]
    repeated = [worker.seconds() for worker in plain if worker.has_answered]
    return TimeAccount(
        wall_s=timeline.wall_s,
        activities={name: Spent(seconds=seconds[name], share=shares[name]) for name in ACTIVITIES},
        useful_share=min(1.0, sum(shares[name] for name in USEFUL)),
        parent_cpu_s=timeline.cpu_s,
        parent_cpu_share=timeline.cpu_s / timeline.wall_s,
        builds=len({outcome.build_key for outcome in history.outcomes.values()}),
        first_gain_s=first_gain_s(timeline.workers, history),
        start_s=_median(start_s for worker in workers if (start_s := worker.start_s()) is not None),
        repetition_s=_median(repeated),
        unfinished=unfinished(entries, history),
        budget_s=budget_s,
    )


# ---- from entries to spans ------------------------------------------------------------------------------------------


def make_timeline(entries: Iterable[StageEntry]) -> Timeline:
    """Return what each worker did. What was open when a run was killed ends with the last entry of that run."""
    timeline, cpu_s = Timeline(), 0.0
    for run in _runs(entries):
        offset_s = timeline.wall_s - run[0].at_s
        timeline.workers += _workers(run, offset_s)
        timeline.wall_s = run[-1].at_s + offset_s
        cpu_s += run[-1].cpu_s
    timeline.cpu_s = cpu_s
    return timeline


def _runs(entries: Iterable[StageEntry]) -> Iterator[list[StageEntry]]:
    """Yield the entries of each run of the command."""
    run: list[StageEntry] = []
    for entry in entries:
        if entry.stage == "run" and run:
            yield run
            run = []
        run.append(entry)
    if run:
        yield run


def _workers(run: Sequence[StageEntry], offset_s: float) -> Iterator[Worker]:
    """Yield the workers of a run."""
    steps: dict[tuple[Who, int], list[StageEntry]] = {}
    for entry in run:
        key = entry.who, entry.number
        if entry.who != "study":
            steps.setdefault(key, []).append(entry)
        if entry.stage == END and key in steps:
            yield _worker(steps.pop(key), offset_s)
    last = run[-1]
    for entries in steps.values():
        yield _worker([*entries, last], offset_s)


def _worker(entries: Sequence[StageEntry], offset_s: float) -> Worker:
    """Return a worker from its entries, the last of which ends it."""
    first, stages = entries[0], [entry for entry in entries if entry.stage != STILL]
    spans = [
        Span(activity_of(entry), entry.at_s + offset_s, after.at_s + offset_s) for entry, after in pairwise(stages)
    ]
    for entry in entries:
        if entry.stage == STILL:
            at_s = entry.at_s + offset_s
            spans = list(_interrupted(spans, at_s - entry.still_s, at_s))
    return Worker(first.who, first.number, spans, any(entry.stage == DONE for entry in entries))


def _interrupted(spans: Iterable[Span], from_s: float, to_s: float) -> Iterator[Span]:
    """Yield a worker's spans with its time from one instant to another as waiting."""
    for activity, start_s, end_s in spans:
        first_s, last_s = max(start_s, from_s), min(end_s, to_s)
        if first_s >= last_s:
            yield Span(activity, start_s, end_s)
            continue
        parts = (Span(activity, start_s, first_s), Span("waiting", first_s, last_s), Span(activity, last_s, end_s))
        yield from (part for part in parts if part.seconds > 0)


def activity_of(entry: StageEntry) -> str:
    """Return what a stage counts for. A stage that is not known counts as waiting."""
    special: dict[str, str] = {}
    if entry.who == "repetition":
        special = OF_REPETITION
    elif (entry.number, entry.point) == (BASELINE, 0):
        special = OF_BASELINE
    return special.get(entry.stage) or OF_STAGE.get(entry.stage, "waiting")


# ---- what follows from them -----------------------------------------------------------------------------------------


def divide(spans: Sequence[Span], wall_s: float) -> dict[str, float]:
    """Return the seconds of each activity. They add up to the wall time; no second counts twice."""
    changes = sorted([(span.start_s, 1, span.activity) for span in spans] + [(s.end_s, -1, s.activity) for s in spans])
    seconds, running, before_s = dict.fromkeys(ACTIVITIES, 0.0), Counter[str](), 0.0
    for at_s, change, activity in [*changes, (wall_s, 0, "waiting")]:
        counted = next((name for name in ACTIVITIES if running[name] > 0), "waiting")
        seconds[counted] += at_s - before_s
        running[activity] += change
        before_s = at_s
    return seconds


def first_gain_s(workers: Iterable[Worker], history: History) -> float | None:
    """Return when the first gain was confirmed: with the repetition that made it sure."""
    ends = {worker.number: worker.spans[-1].end_s for worker in workers if worker.who == "repetition" and worker.spans}
    known = sorted(history.repetitions, key=lambda run: ends.get(run.repetition or 0, 0.0))
    for count, last in enumerate(known, start=1):
        candidate = history.outcomes.get(last.pair.candidate if last.pair else BASELINE)
        if candidate is None or candidate.number == BASELINE:
            continue
        if is_confirmed(dataclasses.replace(history, repetitions=known[:count]), candidate):
            return ends.get(last.repetition or 0)
    return None


def unfinished(entries: Iterable[StageEntry], history: History) -> dict[int, str]:
    """Return the stage in which each build without an outcome was stopped, by trial. One that still runs is none."""
    running, stopped = dict[int, str](), dict[int, str]()
    for entry in entries:
        if entry.who == "study":
            stopped |= running
            running.clear()
        elif entry.who == "build" and entry.stage == END:
            stopped[entry.number] = running.pop(entry.number, DONE)
        elif entry.who == "build" and entry.stage not in (DONE, STILL):
            if (entry.number, entry.stage) == (BASELINE, "start"):
                stopped.clear()  # what was built beside an earlier baseline counts as not tried
            stopped.pop(entry.number, None)
            running[entry.number] = entry.stage
    return {number: stage for number, stage in sorted(stopped.items()) if number not in history.outcomes}


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return median(known) if known else None

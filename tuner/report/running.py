"""What runs at a moment: trials with the stage that each is in, and tasks that are no trials."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from tuner.numbers import format_clock
from tuner.records.codec import Value
from tuner.report.formatting import label, one_line, pluralize
from tuner.report.trial_text import trial_text

STAGES = {
    "start": "starting",
    "load": "loading",
    "apply": "applying knobs",
    "compile": "compiling",
    "warm up": "warming up",
    "trace": "tracing",
    "probe": "probing the device",
    "time": "timing",
    "await": "waiting to be judged",
    "score": "judging images",
    "vary": "varying rounding",
    "judge": "judging",
}
"""What a person is told of a stage, where its name is not plain."""

SHOWN_S = 0.5
"""A shorter time is not shown: it would read 0:00."""


@dataclass(frozen=True)
class Running:
    """A trial or a task that runs, its configuration, its stage, and since when by the display's clock.

    `ends` is when it is expected to end, None if that is unknown. `steps` is the step count that the stage is about.
    """

    name: str
    configuration: str
    stage: str
    since: float
    steps: int | None = None
    ends: float | None = None

    @property
    def doing(self) -> str:
        """What it does."""
        steps = f" at {pluralize(self.steps, 'step')}" if self.steps is not None else ""
        return f"{STAGES.get(self.stage, self.stage)}{steps}"

    def text(self, now: float) -> str:
        """Format what it does, since when, and when it is expected to end."""
        rest_s = self.rest_s(now)
        rest = f", about {format_clock(rest_s)} to go" if rest_s >= SHOWN_S else ""
        return f"{self.doing} {format_clock(now - self.since)}{rest}"

    def rest_s(self, now: float) -> float:
        """Return the seconds that it is expected to go on, 0 if that is unknown or over."""
        return max(0.0, self.ends - now) if self.ends is not None else 0.0


class RunningSet:
    """The trials by their number, and the task if there is one, in the order in which they began.

    Another thread may read it at any time: what is in it is replaced, never changed.
    """

    def __init__(self) -> None:
        self._running: dict[int | None, Running] = {}

    def __iter__(self) -> Iterator[Running]:
        return iter(list(self._running.values()))

    def start(self, number: int, purpose: str, values: Mapping[str, Value], points: int, now: float) -> None:
        """Begin a trial."""
        several = f"{points} step counts of " if points > 1 else ""
        name, configuration = trial_text(number, purpose), f"{several}{label(values)}"
        self._running[number] = Running(name, configuration, "starting", now)

    def task(self, name: str, stage: str, now: float) -> None:
        """Begin a task. Trials are over by then."""
        self.clear()
        self._running[None] = Running(name, "", one_line(stage), now)

    def enter(self, number: int, stage: str, steps: int | None, now: float) -> Running | None:
        """Enter a stage, and return what was before it."""
        known = self._running.get(number)
        if known is not None:
            self._running[number] = replace(known, stage=one_line(stage), steps=steps, since=now)
        return known

    def expect(self, number: int, ends: float) -> None:
        """Note when a trial is expected to end."""
        known = self._running.get(number)
        if known is not None:
            self._running[number] = replace(known, ends=ends)

    def shift(self, number: int, seconds: float) -> None:
        """Leave out of a trial's stage so many seconds in which it stood still."""
        known = self._running.get(number)
        if known is not None:
            ends = None if known.ends is None else known.ends + seconds
            self._running[number] = replace(known, since=known.since + seconds, ends=ends)

    def end(self, number: int | None) -> Running | None:
        """End a trial or the task, and return what it was."""
        return self._running.pop(number, None)

    def clear(self) -> None:
        """End everything."""
        self._running.clear()


def who_goes_on(running: Iterable[Running], now: float) -> str:
    """Format which trials go on, and for how long if that is known; empty if none does."""
    known = list(running)
    if not known:
        return ""
    who = f"{known[0].name} goes on" if len(known) == 1 else f"{len(known)} trials go on"
    rest_s = max(each.rest_s(now) for each in known)
    return f"{who} for about {format_clock(rest_s)}" if rest_s >= SHOWN_S else who


def unfinished_text(stages: Mapping[int, str]) -> str:
    """Format which trials were stopped without a result, and what each did then; empty if none was."""
    doing: defaultdict[str, list[str]] = defaultdict(list)
    for number, stage in stages.items():
        doing[STAGES.get(stage, one_line(stage))].append(str(number))
    who = [f"{'trials' if len(them) > 1 else 'trial'} {', '.join(them)} ({what})" for what, them in doing.items()]
    return f"stopped without a result: {'; '.join(who)}" if who else ""

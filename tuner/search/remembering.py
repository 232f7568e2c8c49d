"""Functions of what a study recorded that work once while that stays the same."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from tuner.records.outcome import Outcome


class Recorded(Protocol):
    """Trials by their numbers, and repetitions, with what was worked out of them."""

    memory: Memory

    @property
    def outcomes(self) -> Mapping[int, Outcome]: ...

    @property
    def repetitions(self) -> Sequence[Outcome]: ...


class Memory:
    """What was worked out of trials and repetitions, by the function that did.

    They are only added to, but the baseline's trial is replaced once its images are judged.
    """

    def __init__(self) -> None:
        self.found: dict[Any, Any] = {}
        self.baseline: Outcome | None = None
        self.counts = (0, 0)

    def of(self, recorded: Recorded) -> dict[Any, Any]:
        """Return what was worked out, nothing if more was recorded since."""
        baseline, counts = recorded.outcomes.get(0), (len(recorded.outcomes), len(recorded.repetitions))
        if baseline is not self.baseline or counts != self.counts:
            self.found, self.baseline, self.counts = {}, baseline, counts
        return self.found


AnyRecorded = TypeVar("AnyRecorded", bound=Recorded)
Result = TypeVar("Result")


def remembered(work: Callable[[AnyRecorded], Result]) -> Callable[[AnyRecorded], Result]:
    """Make a function, or a method without arguments, work once while what is recorded stays the same.

    A study asks several times a second. The result must not be changed.
    """

    @functools.wraps(work)
    def known(recorded: AnyRecorded) -> Result:
        found = recorded.memory.of(recorded)
        if work not in found:
            found[work] = work(recorded)
        result: Result = found[work]
        return result

    return known

"""A study that tells nothing while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tuner.records.codec import Value
from tuner.records.outcome import Limits, Outcome
from tuner.report.display import Display
from tuner.report.points import FrontPoint


class SilentDisplay(Display):
    """Shows nothing of any event."""

    def started(
        self, title: str, folder: Path, limits: Limits, notes: Sequence[str], spent_s: float,
        recorded: Sequence[Outcome],
    ) -> None: ...  # fmt: skip

    def limited(self, limits: Limits) -> None: ...

    def trial_started(self, number: int, purpose: str, values: Mapping[str, Value], points: int) -> None: ...

    def task(self, name: str, stage: str) -> None: ...

    def stage(self, number: int, name: str, steps: int | None) -> None: ...

    def expected(self, number: int, seconds: float) -> None: ...

    def stood_still(self, number: int, seconds: float) -> None: ...

    def trial_ended(self, outcome: Outcome, remark: str) -> None: ...

    def worker_ended(self, number: int) -> None: ...

    def refused(self, values: Mapping[str, Value], reason: str) -> None: ...

    def front(self, points: Sequence[FrontPoint], best: str) -> None: ...

    def note(self, text: str) -> None: ...

    def closed(self) -> None: ...

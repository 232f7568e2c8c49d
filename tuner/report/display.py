"""The interface of what a person sees while a study runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tuner.records.codec import Value
from tuner.records.outcome import Limits, Outcome
from tuner.report.points import FrontPoint


class Display(Protocol):
    """Receives the events of a study in the order in which they happen."""

    def started(
        self, title: str, folder: Path, limits: Limits, notes: Sequence[str], spent_s: float,
        recorded: Sequence[Outcome],
    ) -> None:  # fmt: skip
        """Begin the display of a study, or of one that resumes with `recorded` outcomes and `spent_s` of its budget."""

    def limited(self, limits: Limits) -> None:
        """Show the limits from here on: a budget was chosen."""

    def trial_started(self, number: int, purpose: str, values: Mapping[str, Value], points: int) -> None:
        """Show that a trial is built or repeated, perhaps beside others.

        `values` differ from the baseline, `points` is its number of step counts.
        """

    def task(self, name: str, stage: str) -> None:
        """Show that work begins that is not a trial, and its only stage."""

    def stage(self, number: int, name: str, steps: int | None) -> None:
        """Show that a running trial enters a stage, of this step count if the trial has several."""

    def expected(self, number: int, seconds: float) -> None:
        """Show that a running trial is expected to end in so many seconds."""

    def stood_still(self, number: int, seconds: float) -> None:
        """Show that a running trial could do nothing for so many seconds, until now: another was timed."""

    def trial_ended(self, outcome: Outcome, remark: str) -> None:
        """Show a recorded trial. Its worker may go on with another step count."""

    def worker_ended(self, number: int) -> None:
        """Show that nothing more comes of a trial that was started."""

    def refused(self, values: Mapping[str, Value], reason: str) -> None:
        """Show a candidate that was refused before it cost anything."""

    def front(self, points: Sequence[FrontPoint], best: str) -> None:
        """Show the front so far, and what is the best on it."""

    def note(self, text: str) -> None:
        """Show a note."""

    def closed(self) -> None:
        """End the display. Later calls have no effect."""

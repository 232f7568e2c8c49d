"""What every experiment tracker has in common, and what it is told of a trial."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tuner.board import trial_events
from tuner.records.outcome import Outcome
from tuner.space.candidates import SearchSpace

IMAGES = 4
"""Images sent of each trial."""


@dataclass(frozen=True)
class TrialRun:
    """A trial as a run of a tracker: its knobs, what was measured, what is filtered by, and its first images."""

    number: int
    knobs: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    images: Sequence[Path]


class Tracker(ABC):
    """An experiment tracker, connected when it is made. Where it lies is its own environment variables' matter.

    Making one and `log` raise whatever the tracker's client does.
    """

    package: ClassVar[str]

    @abstractmethod
    def __init__(self, study: str) -> None:
        """Connect, for the trials of the study of this name."""

    @abstractmethod
    def log(self, trial: TrialRun) -> None:
        """Make the run of a trial, or bring it up to date: a trial has one run, however often it is logged."""


def trial_run(folder: Path, outcome: Outcome, space: SearchSpace, place: trial_events.Place) -> TrialRun:
    """Return what a tracker is told of the trial in a folder."""
    tags = {
        "status": trial_events.status(outcome),
        "purpose": outcome.purpose,
        "settings": trial_events.settings(outcome, space),
        "result": trial_events.result(outcome, place),
    }
    return TrialRun(
        number=outcome.number,
        knobs=trial_events.knobs(outcome, space),
        metrics=trial_events.metrics(outcome),
        tags=tags,
        images=sorted((folder / "images").glob("*.png"))[:IMAGES],
    )

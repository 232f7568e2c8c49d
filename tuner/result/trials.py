"""Which trials of a result can be taken in the place of the chosen one, and why another cannot."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from tuner.errors import BadInput
from tuner.files import StudyFolder
from tuner.numbers import format_latency
from tuner.records.codec import read
from tuner.records.outcome import Outcome
from tuner.records.text import shown
from tuner.result.front import meets_target
from tuner.result.records import BestConfig, MeasuredPoint

REASONS: tuple[tuple[Callable[[Outcome], bool], str], ...] = (
    (lambda outcome: outcome.status == "rejected", "the gate rejected it"),
    (lambda outcome: outcome.status == "failed", "it failed"),
    (lambda outcome: outcome.quality is None, "its images were not judged"),
    (lambda outcome: not meets_target(outcome), "it misses the latency target"),
    (lambda _: True, "it is not on the front, as another trial is as cheap and scores as high"),
)
"""Why a trial that was recorded cannot be taken: the first that applies."""


def points_by_trial(best: BestConfig) -> dict[int, MeasuredPoint]:
    """Return the points whose measurements a result has: the baseline, the front, the chosen one."""
    points = {point.trial: point for point in (best.baseline, *best.front, best.chosen)}
    return dict(sorted(points.items()))


def point_of(
    best: BestConfig, trial: int, config: str | os.PathLike[str], *, with_baseline: bool = True
) -> MeasuredPoint:
    """Return the point of a trial. Raises BadInput that says why there is none, and lists those that there are."""
    points = points_by_trial(best)
    if trial not in points:
        others = [point for point in points.values() if with_baseline or point.trial != best.baseline.trial]
        remedy = f"take {listed(best, others)}" if others else "there is no other; a longer --budget searches on"
        raise BadInput(f"{config}: trial {trial}: {_absence(Path(config), trial)}; {remedy}")
    return points[trial]


def listed(best: BestConfig, points: Iterable[MeasuredPoint]) -> str:
    """List points in one line, each by its number, its settings and its latency."""
    return " or ".join(f"{point.trial} ({_told(best, point)})" for point in points)


def _told(best: BestConfig, point: MeasuredPoint) -> str:
    settings = " ".join(f"{name}={shown(value)}" for name, value in point.changed.items())
    marks = {best.baseline.trial: "untouched", best.chosen.trial: "chosen"}
    return ", ".join(filter(None, (settings, format_latency(point.latency_s.value), marks.get(point.trial))))


def _absence(file: Path, trial: int) -> str:
    """Return why a result does not have a trial, as the study beside it tells, if there is one."""
    study = StudyFolder(file.parent)
    if not study.trials.is_dir():
        return "the file has the baseline and the front only, and it is not among them"
    try:
        outcome = read(study.trial(trial) / "outcome.json", Outcome)
    except BadInput:
        return "the study has recorded no such trial"
    return next(reason for applies, reason in REASONS if applies(outcome))

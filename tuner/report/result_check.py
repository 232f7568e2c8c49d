"""Check a best_config.json against the study in whose folder it lies: either may come from elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from tuner.records.consistency import alike
from tuner.result.config import count_trials, package_version
from tuner.result.consistency import points_of
from tuner.result.records import BestConfig, MeasuredPoint
from tuner.search.gain import measured_point, speed_up
from tuner.search.history import History
from tuner.search.its_study import unlike_request
from tuner.search.request import Request

OTHERS = ("cost_usd_per_1000_images", "panel", "limit", "economics")
"""Fields of a point that depend on more than its trial and the repetitions; the price alone may have changed."""


def result_problem(best: BestConfig, request: Request, history: History) -> str | None:
    """Return which field of a result is not what its study recorded, or None.

    A run that was killed may have recorded trials and repetitions after it wrote the result.
    """
    problem = next(_of_study(best, request, history), None)
    if problem is not None or best.tuner_version != package_version():
        return problem  # another version may count processes and pairs by other rules
    counts = range(len(history.repetitions), -1, -1)
    earlier = (dataclasses.replace(history, repetitions=history.repetitions[:count]) for count in counts)
    problems = [next(_of_trials(best, known), None) for known in earlier]
    return None if None in problems else problems[0]


def _of_study(best: BestConfig, request: Request, history: History) -> Iterator[str]:
    yield from unlike_request(best, request)
    for name, point in points_of(best):
        trial = history.outcomes.get(point.trial)
        if trial is None or trial.values != point.values or trial.status != "measured" or trial.quality is None:
            yield f"{name}.trial: trial {point.trial} of this study is not it, or was not measured"
    for check in best.predictions:
        trial = history.outcomes.get(check.trial)
        if trial is None or trial.timing is None or not alike(trial.timing.latency_s, check.predicted_s):
            yield f"predictions: not what trial {check.trial} of this study predicted"
    recorded = count_trials(list(history.outcomes.values()), 0)
    for status in ("measured", "rejected", "failed"):
        if getattr(best.trials, status) > getattr(recorded, status):
            yield f"trials.{status}: {getattr(best.trials, status)}, although {getattr(recorded, status)} are recorded"


def _of_trials(best: BestConfig, history: History) -> Iterator[str]:
    for name, point in points_of(best):
        expected = measured_point(history, history.outcomes[point.trial])
        yield from (f"{name}.{field}: not what trial {point.trial} recorded" for field in _unlike(point, expected))
    if not alike(best.speed_up, speed_up(history, history.outcomes[best.chosen.trial])):
        yield f"speed_up: not what the baseline and trial {best.chosen.trial} recorded"


def _unlike(point: MeasuredPoint, expected: MeasuredPoint) -> Iterator[str]:
    others = OTHERS if point.speed_up is not None else (*OTHERS, "speed_up")  # earlier versions did not write it
    fields = (field for field in point.__struct_fields__ if field not in others)
    return (field for field in fields if not alike(getattr(point, field), getattr(expected, field)))

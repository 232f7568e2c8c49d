"""What each setting of the chosen configuration is worth, as far as the study measured or expected it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tuner.records.advice import Expectation
from tuner.records.codec import Estimate
from tuner.records.outcome import Outcome
from tuner.report.formatting import format_value, one_line
from tuner.report.study_report import StudyReport
from tuner.result import front
from tuner.space.candidates import SearchSpace, candidate_key


@dataclass(frozen=True)
class Worth:
    """The throughput with a setting over that without it, by two trials that differ in nothing else.

    The interval is that of the two timings. `others` is the number of further pairs of trials, whose ratios lie between
    `lowest` and `highest`.
    """

    ratio: Estimate
    without: int
    beside: int
    is_predicted: bool
    others: int
    lowest: float
    highest: float


@dataclass(frozen=True)
class Setting:
    """A knob that the chosen configuration changes, what changing it did to the pipeline, and what it is worth.

    One that `is_part` of another setting, as a cache's threshold, does not exist in the untouched pipeline.
    """

    knob: str
    before: str
    after: str
    effect: str
    is_part: bool
    worth: Worth | None
    expected: Expectation | None


def settings(report: StudyReport) -> list[Setting]:
    """Return the settings of the chosen configuration, in the order in which they are applied."""
    chosen, space = report.best.chosen, report.request.space
    outcome = next(outcome for outcome in report.outcomes if outcome.number == chosen.trial)
    effects = outcome.build.changes if outcome.build else {}
    return [
        Setting(
            knob=knob,
            before=format_value(space.baseline[knob]) if knob in space.baseline else "",
            after=format_value(value),
            effect=one_line(effects.get(knob, "")),
            is_part=knob not in report.best.baseline.values,
            worth=worth(space, report.outcomes, outcome, knob),
            expected=report.advice.of(knob, value) if report.advice else None,
        )
        for knob, value in chosen.changed.items()
    ]


def worth(space: SearchSpace, outcomes: tuple[Outcome, ...], chosen: Outcome, knob: str) -> Worth | None:
    """Return what the chosen value of a knob is worth; None if no two trials differ in it alone."""
    pairs = sorted(_pairs(space, outcomes, chosen, knob), key=lambda pair: _distance(pair[1], chosen))
    if not pairs:
        return None
    ratios = [front.speed_up([without], [beside]) for without, beside in pairs]
    values = [ratio.value for ratio in ratios[1:]]
    without, beside = pairs[0]
    return Worth(
        ratio=ratios[0],
        without=without.number,
        beside=beside.number,
        is_predicted=any(trial.timing is not None and bool(trial.timing.predicted_from) for trial in pairs[0]),
        others=len(values),
        lowest=min(values, default=0.0),
        highest=max(values, default=0.0),
    )


def _pairs(
    space: SearchSpace, outcomes: tuple[Outcome, ...], chosen: Outcome, knob: str
) -> Iterator[tuple[Outcome, Outcome]]:
    """Yield the trials without and with the chosen value of a knob that differ in nothing else."""
    trials = {candidate_key(outcome.values): outcome for outcome in front.measured(outcomes)}
    for beside in trials.values():
        if beside.values.get(knob) != chosen.values[knob]:
            continue
        without = trials.get(candidate_key(space.without(beside.values, knob)))
        if without is not None:
            yield without, beside


def _distance(trial: Outcome, chosen: Outcome) -> int:
    """Return in how many values a trial differs from the chosen one."""
    names = trial.values.keys() | chosen.values.keys()
    return sum(trial.values.get(name) != chosen.values.get(name) for name in names)

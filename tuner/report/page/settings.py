"""The settings of the chosen configuration: what each changed, what it is worth, and what was expected of it."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.records.advice import Expectation
from tuner.records.text import format_value
from tuner.report.explanation import Worth
from tuner.report.formatting import one_line
from tuner.report.study_report import StudyReport


@dataclass(frozen=True)
class Setting:
    """A knob that the chosen configuration changes, what changing it did to the pipeline, and what it is worth."""

    knob: str
    before: str
    after: str
    effect: str
    worth: Worth
    expected: Expectation | None


def settings(report: StudyReport) -> list[Setting]:
    """Return the settings of the chosen configuration in the order of the explanation: the largest worth first."""
    outcome = next(outcome for outcome in report.outcomes if outcome.number == report.best.chosen.trial)
    effects, baseline = outcome.build.changes if outcome.build else {}, report.request.space.baseline
    return [
        Setting(
            knob=worth.knob,
            before=format_value(baseline[worth.knob]) if worth.knob in baseline else "",
            after=format_value(worth.value),
            effect=one_line(effects.get(worth.knob, "")),
            worth=worth,
            expected=report.advice.of(worth.knob, worth.value) if report.advice else None,
        )
        for worth in report.explanation.settings
    ]

"""Where time goes, as bars that are divided: a call before and after, a step by class, the whole study."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tuner.numbers import format_clock, format_latency, format_number
from tuner.records.outcome import Components
from tuner.report.formatting import pluralize
from tuner.report.page.steps import OF_LETTER
from tuner.report.study_report import StudyReport
from tuner.report.time_account import TimeAccount

PARTS = {"text_encoders_s": "text encoders", "denoiser_s": "denoiser", "vae_s": "VAE decode", "rest_s": "rest"}
CLASSES = (*OF_LETTER.values(), "around operators")
TONES = 10
"""Colours of the style sheet, tone-0 and on."""


@dataclass(frozen=True)
class Part:
    """One part of a bar: its name, its share of the longest bar, and its figure as text."""

    name: str
    share: float
    text: str
    tone: int


@dataclass(frozen=True)
class DividedBar:
    """A bar with its parts."""

    name: str
    total: str
    parts: tuple[Part, ...]


def legend(bars: Iterable[DividedBar]) -> list[tuple[str, int]]:
    """Return the names of all parts with their colours."""
    return list(dict.fromkeys((part.name, part.tone) for bar in bars for part in bar.parts))


def _points(report: StudyReport) -> dict[str, int]:
    best = report.best
    chosen = {} if best.chosen.trial == best.baseline.trial else {f"trial {best.chosen.trial}": best.chosen.trial}
    return {"baseline": best.baseline.trial, **chosen}


def call_bars(report: StudyReport) -> list[DividedBar]:
    """Return the seconds per image of a call of the baseline and of the chosen configuration, on one scale of time."""
    points = {point.trial: point for point in (report.best.baseline, report.best.chosen)}
    shown = {name: points[trial] for name, trial in _points(report).items()}
    calls = {name: (point.components, point.batch) for name, point in shown.items() if point.components is not None}
    longest_s = max((call.total_s / batch for call, batch in calls.values()), default=0.0)
    return [
        DividedBar(name, _image_text(call, batch), tuple(_image_parts(call, batch, longest_s)))
        for name, (call, batch) in calls.items()
        if longest_s > 0
    ]


def _image_text(call: Components, batch: int) -> str:
    return f"{format_latency(call.total_s / batch)} per image, in a call of {pluralize(batch, 'image')}"


def _image_parts(call: Components, batch: int, longest_s: float) -> Iterator[Part]:
    for tone, (field, name) in enumerate(PARTS.items()):
        seconds = getattr(call, field)
        if seconds:
            yield Part(name, seconds / batch / longest_s, format_latency(seconds / batch), tone)


def class_bars(report: StudyReport) -> list[DividedBar]:
    """Return the classes of work in a traced step of the baseline and of the chosen configuration, as shares."""
    outcomes = {outcome.number: outcome for outcome in report.outcomes}
    builds = {name: outcomes[trial].build for name, trial in _points(report).items()}
    summaries = {name: build.trace for name, build in builds.items() if build and build.trace}
    return [
        DividedBar(name, f"{format_number(summary.step_ms)} ms a step", tuple(_class_parts(summary.classes)))
        for name, summary in summaries.items()
        if summary.classes
    ]


def _class_parts(classes: Mapping[str, float]) -> Iterator[Part]:
    whole = max(1.0, sum(classes.values()))
    for name, share in classes.items():
        tone = CLASSES.index(name) if name in CLASSES else len(CLASSES)
        yield Part(name, share / whole, f"{share:.1%}", tone % TONES)


def study_bar(account: TimeAccount) -> DividedBar:
    """Return what the time of a study went into."""
    parts = (
        Part(name, spent.share, f"{format_clock(spent.seconds)}, {spent.share:.0%}", tone)
        for tone, (name, spent) in enumerate(account.activities.items())
        if spent.seconds > 0
    )
    return DividedBar("the study", format_clock(account.wall_s), tuple(parts))

"""A study's report as Markdown, for an issue or a README."""

from __future__ import annotations

from tuner.numbers import difference_places, format_clock, format_difference, format_latency, format_number
from tuner.records.text import visible
from tuner.report.formatting import pluralize
from tuner.report.markdown_text import code, plain, row
from tuner.report.points import FrontPoint, difference_marks, gain_cell, in_order, quality_notes
from tuner.report.renderers.base import Renderer
from tuner.report.study_report import StudyReport, state_note
from tuner.report.time_account import TimeAccount
from tuner.report.time_table import figures, headline

HEADINGS = ("trial", "latency", "US$/1000 images", "speed-up", "difference", "configuration")


class Markdown(Renderer):
    """A table of the front, the counts of trials, where the time went, and the conclusion."""

    def render(self, report: StudyReport) -> str:
        request = report.request
        lines = [f"# {plain(request.model.source)} on {plain(request.environment.device_name)}", ""]
        lines += [row(HEADINGS), row(["---"] * len(HEADINGS))]
        lines += [row(_cells(point)) for point in in_order(report.points)]
        if any(point.is_doubtful for point in report.points):
            lines += ["", "`?`: in doubt: measured again beside the baseline, it may be no faster"]
        for note in quality_notes(report.points):
            lines += ["", note]
        lines += ["", _counts(report), "", _machine(report)]
        if report.time is not None:
            lines += ["", *_time(report.time, request.environment.device)]
        lines += ["", "```", *map(code, _last_lines(report)), "```", ""]
        return visible("\n".join(lines))


def _last_lines(report: StudyReport) -> list[str]:
    return [*report.conclusion.splitlines(), *filter(None, [state_note(report)])]


def _cells(point: FrontPoint) -> list[str]:
    number = f"{point.number} (chosen)" if point.is_chosen else str(point.number)
    return [
        number,
        f"{'~' if point.is_predicted else ''}{format_latency(point.latency_s)}{'!' if point.misses_target else ''}",
        format_number(point.cost_usd_per_1000_images),
        gain_cell(point),
        "reference" if point.is_baseline else _difference(point),
        f"`{code(point.label)}`",
    ]


def _difference(point: FrontPoint) -> str:
    shift = point.difference - point.quality
    low, high = point.quality_low + shift, point.quality_high + shift
    places = difference_places([(low, high)], point.quality)
    return format_difference(point.difference, low, high, places) + difference_marks(point)


def _counts(report: StudyReport) -> str:
    trials = report.best.trials
    return (
        f"{pluralize(len(report.outcomes), 'trial')}: {trials.measured} measured, {trials.rejected} rejected, "
        f"{trials.failed} failed; {pluralize(sum(report.refused.values()), 'candidate')} refused"
    )


def _time(account: TimeAccount, device: str) -> list[str]:
    """Return where the time went, most of it first, and what was done in it."""
    spent = sorted(account.activities.items(), key=lambda item: -item[1].seconds)
    named = [f"{name} {format_clock(each.seconds)}" for name, each in spent if each.seconds > 0]
    return [f"{' '.join(headline(account, device).split())}: {', '.join(named)}", "", *map(plain, figures(account))]


def _machine(report: StudyReport) -> str:
    """Return what the figures depend on."""
    here, best = report.request.environment, report.best
    versions = [f"{name} {here.libraries[name]}" for name in ("torch", "diffusers") if here.libraries.get(name)]
    noise = best.timing_noise
    spread = [f"timing noise {noise.coefficient_of_variation:.1%}"] if noise else []
    return ", ".join(map(plain, [here.device_name, *versions, f"diffusion-tuner {best.tuner_version}", *spread]))

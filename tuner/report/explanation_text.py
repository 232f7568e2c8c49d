"""The explanation of a choice: at most twenty lines, each of one row of a terminal, and whole in a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from tuner.numbers import format_gain, format_ratio
from tuner.records.codec import Estimate
from tuner.report.console import BASELINE, QUIET
from tuner.report.explanation import Explanation, Forecast, Untried, Worth, setting_text
from tuner.report.formatting import label, pluralize, shorten, wrap_text
from tuner.search.history import BASELINE as BASELINE_TRIAL

MAX_SETTINGS, MAX_FORECASTS, MAX_UNTRIED = 6, 4, 7
"""Rows of each part; the report in full has the rest. With the headings they are 20 at most."""


@dataclass(frozen=True)
class ExplanationText:
    """What each setting is worth, what was expected, and what was not tried, first that which is next."""

    explanation: Explanation

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line, style in lines(self.explanation):
            if console.is_terminal:
                yield Text(shorten(line, options.max_width), style=style, no_wrap=True)
            else:
                text = line.lstrip()
                yield from wrap_text("", text, options.max_width, style, indent=len(line) - len(text))


def lines(found: Explanation) -> Iterator[tuple[str, str]]:
    """Yield the lines, each with its style."""
    if found.settings:
        yield f"Worth    of each setting of trial {found.trial}, if it alone is left out", BASELINE
        yield from _rows([worth_text(worth) for worth in found.settings], MAX_SETTINGS, "setting")
    if found.forecasts:
        yield forecasts_title(found.forecasts), BASELINE
        yield from _rows([forecast_text(each) for each in furthest_off(found.forecasts)], MAX_FORECASTS)
    if found.untried:
        yield f"Untried  {untried_title(found)}", BASELINE
        rows = [f"{setting_text(each)}  {untried_text(each)}" for each in found.untried]
        yield from _rows(rows, MAX_UNTRIED, "value")


def _rows(rows: Sequence[str], most: int, noun: str = "") -> Iterator[tuple[str, str]]:
    """Yield the first rows, and in the last one how many more there are where `noun` is given."""
    is_cut = bool(noun) and len(rows) > most
    yield from ((f"  {row}", QUIET) for row in rows[: most - is_cut])
    if is_cut:
        yield f"  and {pluralize(len(rows) - most + 1, f'other {noun}')}", QUIET


def ratio_text(ratio: Estimate) -> str:
    """Format a ratio with its interval."""
    return format_gain(ratio.value, ratio.low, ratio.high)


def worth_text(worth: Worth) -> str:
    """Format what a setting is worth and how that is known."""
    ratio = f"{ratio_text(worth.ratio)}, " if worth.ratio else ""
    return f"{setting_text(worth)}  {ratio}{worth_source(worth)}"


def worth_source(worth: Worth) -> str:
    """Say how it is known what a setting is worth, and which settings cannot be had without it."""
    pairs = "as in the table" if worth.trial_without == BASELINE_TRIAL else "not in pairs"
    source = f"measured (trial {worth.trial_without}, {pairs})" if worth.trial_without is not None else worth.source
    needed = f"; needed by {label(worth.needed_by)}" if worth.needed_by else ""
    return f"{source}{needed}"


def forecasts_title(forecasts: Sequence[Forecast]) -> str:
    """Count the settings whose measured gain agrees with the expected one, and those that tell nothing."""
    telling = [each for each in forecasts if each.tells]
    rough = len(forecasts) - len(telling)
    if not telling:
        return f"Expected gains: {pluralize(rough, 'setting was', 'settings were')} measured too roughly to compare"
    of = f"{sum(each.held for each in telling)} of {pluralize(len(telling), 'setting')} tried"
    others = f"; {pluralize(rough, 'other')} measured too roughly to tell" if rough else ""
    return f"Expected gains agree, within the intervals, with {of}{others}; the furthest off:"


def furthest_off(forecasts: Sequence[Forecast]) -> list[Forecast]:
    """Return those that did not hold first, then others by how far they are off, and last those that tell nothing."""

    def order(each: Forecast) -> tuple[bool, bool, float]:
        return not each.tells, each.held, -abs(each.measured.value / each.expected.value - 1)

    return sorted(forecasts, key=order)


def forecast_text(forecast: Forecast) -> str:
    """Format what was expected of a setting and what was measured."""
    beside = f", beside {label(forecast.beside)}" if forecast.beside else ""
    return (
        f"{setting_text(forecast)}  expected {ratio_text(forecast.expected)}, "
        f"measured {ratio_text(forecast.measured)}{beside}"
    )


def untried_title(found: Explanation) -> str:
    """Count the values that were not tried, and those of them that are next."""
    count = sum(each.is_next for each in found.untried)
    more = f", {count} of them worth trying with a longer --budget" if count else ""
    return f"{pluralize(len(found.untried), 'value')}{more}"


def untried_text(found: Untried) -> str:
    """Say what was expected of a setting that was not tried, and why it was not."""
    if found.expected is None:
        return found.reason
    most = f", at most {format_ratio(found.bound)}x" if found.bound is not None else ""
    beside = f" beside {label(found.beside)}" if found.beside else ""
    return f"expected {format_ratio(found.expected.value)}x{most}{beside}; {found.reason}"

"""Advice as a table: what each value can gain at most, what it is expected to gain, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from tuner.knobs import KNOBS
from tuner.numbers import format_latency, format_number, format_ratio
from tuner.records.advice import Advice, Expectation
from tuner.records.codec import Record
from tuner.records.text import format_value
from tuner.report.console import BASELINE, QUIET
from tuner.report.formatting import label, one_line, wrap_text
from tuner.report.tables import add_number_column, draw_with_details, make_table

INDENT = 4

CHANGES_IMAGE = "*"
LEGEND = (
    "Times as fast as the untouched pipeline, or as it is with the settings named. "
    f"{CHANGES_IMAGE} may change the image by more than rounding: tune run measures whether it stays as good."
)


class AdviceReport(Record):
    """Advice for a pipeline on a device. `unavailable_reasons` says what of the device could not be measured."""

    model: str
    pipeline_class: str
    device_name: str
    call_s: float
    advice: Advice
    unavailable_reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class AdviceTable:
    """A row for each value, the best first, with the reason below it."""

    report: AdviceReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        report, width = self.report, options.max_width
        found = sorted(report.advice.expectations, key=lambda each: (-each.ratio, -(each.bound or 1.0)))
        title = f"{one_line(report.model)} ({report.pipeline_class}) on {one_line(report.device_name)}"
        yield from wrap_text("", title, width, BASELINE)
        yield from wrap_text("", call_text(report), width)
        yield Text("")
        table = make_table(options, BASELINE)
        table.add_column("knob", style=BASELINE, no_wrap=True)
        table.add_column("value", no_wrap=True)
        for heading in ("at most", "expected", "95 % interval"):
            add_number_column(table, heading)
        for each in found:
            table.add_row(each.knob, marked_value(each), *figures(each))
        below = [_details(each, width, is_idle=each in report.advice.ruled_out) for each in found]
        yield from draw_with_details(table, below, console, options)
        for reason in report.unavailable_reasons:
            yield from wrap_text("", f"not measured: {one_line(reason)}", width, "yellow")
        yield from wrap_text("", LEGEND, width)


def marked_value(found: Expectation) -> str:
    """Format a value, with a mark if it may change the image."""
    mark = CHANGES_IMAGE if KNOBS[found.knob].changes_image(found.value) else ""
    return f"{format_value(found.value)}{mark}"


def figures(found: Expectation) -> tuple[str, str, str]:
    """Format the bound, the expectation and its interval."""
    bound = "-" if found.bound is None else f"{format_ratio(found.bound)}x"
    return bound, f"{format_ratio(found.ratio)}x", f"[{format_ratio(found.low)}, {format_ratio(found.high)}]"


def call_text(report: AdviceReport) -> str:
    """Say how long a call takes and what takes it."""
    parts = {name: seconds for name, seconds in report.advice.seconds_by_part.items() if seconds > 0}
    shares = sorted(parts.items(), key=lambda item: -item[1])
    text = ", ".join(f"{name} {format_number(100 * seconds / sum(parts.values()), 2)} %" for name, seconds in shares)
    return f"a call takes {format_latency(report.call_s)}: {text or 'of what is not known'}"


def _details(found: Expectation, width: int, *, is_idle: bool) -> Iterator[Text]:
    """Yield what stands below a value: what it needs, why so much, what else it is for, and if it is not tried."""
    beside = f"with {label(found.beside)}: " if found.beside else ""
    also = f"; also for: {found.also}" if found.also else ""
    idle = "; tune run does not try it" if is_idle else ""
    yield from wrap_text("", f"{beside}{found.reason}{also}{idle}", width, QUIET, INDENT)

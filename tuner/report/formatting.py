"""Text that people read: words, counts, configurations, paragraphs."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from tuner.numbers import format_number
from tuner.records.codec import Value
from tuner.records.text import format_value
from tuner.report.console import BASELINE, QUIET

# ---- lines and paragraphs -------------------------------------------------------------------------------------------


def one_line(text: str) -> str:
    """Remove line breaks, colours and control characters; the output of a worker may hold anything."""
    plain = re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?)", "", text)
    return " ".join("".join(c if c.isprintable() else " " for c in plain).split())


def first_line(text: str) -> str:
    """Return the first line that is not blank."""
    return next((cleaned for line in text.splitlines() if (cleaned := one_line(line))), "")


def shorten(text: str, width: int) -> str:
    """Cut text that is longer than `width`, ending it with three dots."""
    return text if len(text) <= width else text[: max(0, width - 3)] + "..."[: max(0, width)]


def wrap_text(label: str, text: str, width: int, style: str = "", indent: int = 0) -> Iterator[Text]:
    """Yield the lines of a paragraph beside its label, wrapped at spaces."""
    head = " " * indent + label
    lines = textwrap.wrap(text, max(20, width - len(head)), break_on_hyphens=False, break_long_words=False)
    for number, line in enumerate(lines):
        start = head if number == 0 else " " * len(head)
        yield Text.assemble((start, QUIET), (line, style))


def section(
    title: str, rows: Sequence[tuple[str, str]], width: int, is_quiet: Callable[[str, str], bool] = lambda *_: False
) -> Iterator[Text]:
    """Yield a title and below it rows of a label and a text, those that are `is_quiet` dimmed; nothing without rows."""
    if not rows:
        return
    yield Text(title, style=BASELINE)
    label = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        yield from wrap_text(f"{name:<{label}}", text, width, QUIET if is_quiet(name, text) else "", indent=2)
    yield Text("")


@dataclass(frozen=True)
class OneLine:
    """Text cut to the width that it gets; rich's own ellipsis is not ASCII."""

    text: str
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(shorten(self.text, options.max_width), style=self.style, no_wrap=True, overflow="crop")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(8, len(self.text)), len(self.text)).with_maximum(options.max_width)


# ---- configurations -------------------------------------------------------------------------------------------------


def changes(values: Mapping[str, Value], baseline: Mapping[str, Value]) -> dict[str, Value]:
    """Return the values that differ from the baseline's."""
    return {name: value for name, value in values.items() if name not in baseline or baseline[name] != value}


def label(values: Mapping[str, Value]) -> str:
    """Format a configuration in one line; without values it is the baseline."""
    return " ".join(f"{name}={format_value(value)}" for name, value in values.items()) or "baseline"


# ---- counts ---------------------------------------------------------------------------------------------------------


def pluralize(count: int, noun: str, plural: str | None = None) -> str:
    """Format a count with its noun in the singular or the plural."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def format_other_processes(processes: int | None, memory_bytes: int | None) -> str:
    """Format how many other processes use the GPU and how much memory they hold; empty if there are none."""
    if not processes and not memory_bytes:
        return ""
    who = pluralize(processes, "other process", "other processes") if processes else "other processes"
    return f"{who} with {format_number(memory_bytes / 1e9)} GB" if memory_bytes else who

"""Where the time of a study went, in at most nine lines, and which trials were stopped without a result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from tuner.numbers import format_clock, format_latency
from tuner.report.console import BASELINE, QUIET
from tuner.report.formatting import pluralize, wrap_text
from tuner.report.running import unfinished_text
from tuner.report.tables import add_number_column, make_bare_table
from tuner.report.time_account import ACTIVITIES, TimeAccount

AFTERWARDS = "what has begun by then, the confirmation and the finalists may end later"

COLUMNS = 2
"""Activities beside each other."""


@dataclass(frozen=True)
class TimeTable:
    """The account of a study that ran on a device."""

    account: TimeAccount
    device: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table, account = make_bare_table(), self.account
        table.show_header = False
        for _ in range(COLUMNS):
            table.add_column(no_wrap=True, style=QUIET)
            add_number_column(table, "")
            add_number_column(table, "")
        rows = -(-len(ACTIVITIES) // COLUMNS)
        for row in range(rows):
            table.add_row(*(cell for name in ACTIVITIES[row::rows] for cell in _cells(name, account)))
        yield Text(headline(account, self.device), style=BASELINE)
        yield table
        for line in figures(account):
            yield from wrap_text("", line, options.max_width, QUIET, indent=2)


def _cells(name: str, account: TimeAccount) -> tuple[Text, Text, Text]:
    spent = account.activities[name]
    return Text(f"  {name}"), Text(format_clock(spent.seconds)), Text(f"{spent.share:.0%}")


def headline(account: TimeAccount, device: str) -> str:
    """Return how long the study took, and the share of that in which the device did what it needs."""
    what = "GPU" if device == "cuda" else "CPU"
    return f"Time     {format_clock(account.wall_s)}, in {account.useful_share:.0%} the {what} did what the study needs"


def figures(account: TimeAccount) -> Iterator[str]:
    """Yield what was done in the time, and how long single steps took."""
    gain_s = account.first_gain_s
    gain = "no confirmed gain" if gain_s is None else f"first confirmed gain after {format_clock(gain_s)}"
    if account.over_budget_s >= 1.0:
        assert account.budget_s is not None
        over, budget = map(format_clock, (account.over_budget_s, account.budget_s))
        yield f"{over} past the budget of {budget}, which limits the search: {AFTERWARDS}"
    timed = f" judged, {account.only_timed} more timed" if account.only_timed else ""
    yield f"{pluralize(account.builds, 'build')}{timed}, {gain}"
    if account.unfinished:
        yield unfinished_text(account.unfinished)
    cpu = f"{format_latency(account.parent_cpu_s)}, {account.parent_cpu_share:.1%}"
    yield f"CPU time of this command itself {cpu} of the time"
    medians = {"start of a worker until its first call": account.start_s, "repetition": account.repetition_s}
    known = [f"{name} {format_latency(seconds)}" for name, seconds in medians.items() if seconds is not None]
    if known:
        yield f"median {', '.join(known)}"

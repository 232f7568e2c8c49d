"""Render a verification for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from tuner.export.facts import setting
from tuner.report.console import CHOSEN
from tuner.report.formatting import one_line
from tuner.report.tables import make_bare_table, make_table
from tuner.verify.judge import ratio_text
from tuner.verify.records import Verification

STYLES = {"pass": CHOSEN, "fail": "bold red", "unavailable": "yellow"}


@dataclass(frozen=True)
class VerifyTable:
    """A verification as text: three answers, what changed, and the repair. A `strict` one needs every answer."""

    verification: Verification
    strict: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self.verification
        settings = " ".join(setting(name, value) for name, value in shown.changed.items())
        yield Text(f"trial {shown.trial} of {shown.file}: {settings}")
        yield ""
        yield answers(shown, options)
        yield ""
        yield from changes(shown)
        yield from conclusion(shown, self.strict)


def answers(shown: Verification, options: ConsoleOptions) -> Table:
    """Return the table of the three answers."""
    table = make_table(options)
    for heading in ("is it still", "", "because"):
        table.add_column(heading, overflow="fold")
    for check in shown.checks:
        table.add_row(check.question, Text(check.status, style=STYLES[check.status]), Text(one_line(check.text)))
    return table


def changes(shown: Verification) -> Iterator[RenderableType]:
    """Yield what changed in the environment."""
    if not shown.changes:
        yield Text("Machine, versions and the model's settings are as recorded.")
        return
    yield Text("Changed since the record:")
    table = make_bare_table()
    for heading in ("", "recorded", "now"):
        table.add_column(heading, overflow="fold")
    for change in shown.changes:
        table.add_row(f"  {change.name}", one_line(change.recorded), one_line(change.now))
    yield table


def conclusion(shown: Verification, strict: bool) -> Iterator[RenderableType]:
    """Yield the verdict, the speed-up of today, and the repair."""
    if shown.speed_up is not None:
        yield Text(f"Today it has {ratio_text(shown.speed_up)} the untouched pipeline's throughput.")
    for trial, reason in shown.tried.items():
        yield Text(f"No repair: trial {trial}: {one_line(reason)}")
    repair = shown.repair
    if repair is not None:
        settings = " ".join(setting(name, value) for name, value in repair.changed.items())
        yield Text(f"Repair: trial {repair.trial} ({settings}): {repair.text}; tuner.load(path, trial={repair.trial})")
    elif not shown.passed:
        yield Text("Repair: no other point of the front passes; tune again with `tune run`")
    yield verdict(shown, strict=strict)


def verdict(shown: Verification, *, strict: bool = False) -> Text:
    """Return the last line, which names the questions that nothing could answer."""
    unknown = f", these could not be checked: {', '.join(shown.unknown)}" if shown.unknown else ""
    if not shown.passed:
        return Text(f"NOT verified{unknown}", style=STYLES["fail"])
    if unknown and strict:
        return Text(f"NOT verified{unknown}; --strict asks for every answer", style=STYLES["fail"])
    if len(shown.unknown) == len(shown.checks):
        return Text(f"NOTHING verified{unknown}", style=STYLES["unavailable"])
    if unknown:
        return Text(f"partly verified{unknown}", style=STYLES["unavailable"])
    return Text("verified", style=STYLES["pass"])

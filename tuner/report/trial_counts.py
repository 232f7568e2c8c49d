"""Counts of trials by status and reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tuner.records.gate import Finding
from tuner.records.outcome import Outcome
from tuner.report.console import BASELINE, QUIET
from tuner.report.formatting import first_line, one_line, pluralize, shorten

MAX_REASONS = 8
"""Reasons listed for each status."""


def trial_counts(outcomes: Sequence[Outcome], refused: Mapping[str, int] | None = None) -> RenderableType:
    """Return the counts of measured, rejected, failed and refused trials with their reasons, and of skipped checks."""
    refused = refused or {}
    heading = Text(_heading(outcomes, sum(refused.values())), style=BASELINE)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold", ratio=1)
    reasons = (
        ("rejected", "yellow", _rejections(outcomes)),
        ("failed", "red", _failures(outcomes)),
        ("refused", QUIET, [(count, one_line(reason)) for reason, count in refused.items()]),
        ("not checked", QUIET, _skipped(outcomes)),
    )
    for title, style, rows in reasons:
        for index, (count, reason) in enumerate(_most_frequent(rows)):
            grid.add_row(Text(title if index == 0 else "", style=style), Text(str(count)), Text(reason))
    return Group(heading, grid) if grid.row_count else heading


def _most_frequent(rows: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return the most frequent reasons, and the count of the others in one row."""
    rows = sorted(rows, key=lambda row: -row[0])
    rest = rows[MAX_REASONS:]
    return rows[:MAX_REASONS] + ([(sum(count for count, _ in rest), "for other reasons")] if rest else [])


def _heading(outcomes: Sequence[Outcome], refused: int) -> str:
    counts = [f"{sum(o.status == status for o in outcomes)} {status}" for status in ("measured", "rejected", "failed")]
    builds = len({outcome.build_key for outcome in outcomes})
    text = f"{pluralize(len(outcomes), 'trial')} from {pluralize(builds, 'build')}: {', '.join(counts)}"
    return text + (f"; {pluralize(refused, 'candidate')} refused before costing anything" if refused else "")


def undeclared_findings(outcome: Outcome) -> list[Finding]:
    """Return the findings for which the gate rejects a trial."""
    verdict = outcome.build.verdict if outcome.build else None
    return verdict.undeclared() if verdict else []


def _rejections(outcomes: Sequence[Outcome]) -> list[tuple[int, str]]:
    rejected = [outcome for outcome in outcomes if outcome.status == "rejected"]
    keyed = [((str(f.kind), one_line(f.source)), o.number) for o in rejected for f in undeclared_findings(o)]
    keyed += [(("no finding recorded", ""), o.number) for o in rejected if not undeclared_findings(o)]
    return [
        (len(numbers), f"{kind}{f' at {source}' if source else ''} ({_trials(numbers)})")
        for (kind, source), numbers in _grouped(keyed).items()
    ]


def _failures(outcomes: Sequence[Outcome]) -> list[tuple[int, str]]:
    failures = [(o.failure, o.number) for o in outcomes if o.status == "failed" and o.failure]
    keyed = [((f.kind, f.stage, first_line(f.message)), number) for f, number in failures]
    return [
        (len(numbers), f"{kind} in {stage}: {shorten(message, 160)} ({_trials(numbers)})")
        for (kind, stage, message), numbers in _grouped(keyed).items()
    ]


def _skipped(outcomes: Sequence[Outcome]) -> list[tuple[int, str]]:
    verdicts = [outcome.build.verdict for outcome in outcomes if outcome.build and outcome.build.verdict]
    keyed = [(one_line(reason), 0) for verdict in verdicts for reason in verdict.skipped]
    return [(len(numbers), reason) for reason, numbers in _grouped(keyed).items()]


K = TypeVar("K", bound=Hashable)


def _grouped(items: Iterable[tuple[K, int]]) -> dict[K, list[int]]:
    groups: defaultdict[K, list[int]] = defaultdict(list)
    for key, number in items:
        groups[key].append(number)
    return groups


def _trials(numbers: Sequence[int]) -> str:
    distinct = sorted(set(numbers))
    text = ", ".join(map(str, distinct[:6])) + (", ..." if len(distinct) > 6 else "")
    return f"{'trial' if len(distinct) == 1 else 'trials'} {text}"

"""Selects and trims the traces that TensorBoard shows: its plugin loads every trace that it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from tuner.board.trial_events import status
from tuner.errors import BadInput
from tuner.files import atomic_write
from tuner.records.outcome import Outcome
from tuner.trace.trim import trim

SHOWN = ".pt.trace.json.gz"
"""The ending of file names that the plugin reads."""

WHOLE = ".trace.json.gz"
"""The ending of file names that the plugin ignores."""


def tidy(outcomes: Iterable[Outcome], finalists: Iterable[Outcome], folder_of: Callable[[int], Path]) -> None:
    """Leave TensorBoard the finalists' traces and one for each status of rejection or failure, trimmed to their steps.

    The whole trace stays beside each of them, and for every rejection, under a name that the plugin ignores.
    """
    kept = {(outcome.build_key, outcome.values["batch"]) for outcome in finalists}
    statuses: set[str] = {"ok"}
    for outcome in outcomes:
        traces = sorted(folder_of(outcome.number).glob(f"*{SHOWN}"))
        is_first = bool(traces) and status(outcome) not in statuses
        if is_first:
            statuses.add(status(outcome))
        is_shown = is_first or (outcome.build_key, outcome.values["batch"]) in kept
        for trace in traces:
            whole = trace.with_name(trace.name.removesuffix(SHOWN) + WHOLE)
            if is_shown:
                keep_steps(trace, whole)
            elif outcome.status == "measured":
                whole.unlink(missing_ok=True)
                trace.unlink()
            elif whole.exists():
                trace.unlink()
            else:
                trace.replace(whole)


def keep_steps(trace: Path, whole: Path) -> None:
    """Move a whole trace to another name and keep only its steps under its own.

    A trace that cannot be read is removed: the plugin could not read it either.
    """
    if not whole.exists():
        atomic_write(whole, trace.read_bytes())
    if trace.stat().st_size != whole.stat().st_size:
        return
    try:
        atomic_write(trace, trim(whole))
    except BadInput:
        trace.unlink()

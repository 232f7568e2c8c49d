"""What a study that was begun has done, and what another run of it would still do, from its files alone."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.files import StudyFolder
from tuner.numbers import format_clock
from tuner.records.outcome import Limits
from tuner.records.study_lock import holder
from tuner.report.formatting import pluralize
from tuner.report.studies import State, read_limits, read_spent_s, read_state
from tuner.search.budget import has_reached
from tuner.search.recorded import outcome_files


@dataclass(frozen=True)
class Begun:
    """A study that was begun: its state, its recorded trials, the seconds of its budget that it has used."""

    state: State
    trials: int
    spent_s: float
    still_to_do: str


def read_begun(paths: StudyFolder, limits: Limits) -> Begun:
    """Read what a study has done, and say what a run within these limits would do. Writes nothing."""
    trials, spent_s = sum(1 for _ in outcome_files(paths.trials)), read_spent_s(paths.database)
    state = read_state(paths)
    return Begun(state, trials, spent_s, _still_to_do(paths, state, limits, trials, spent_s))


def _still_to_do(paths: StudyFolder, state: State, limits: Limits, trials: int, spent_s: float) -> str:
    if state == "running":
        return f"nothing: {holder(paths.lock) or 'it has just ended'}; wait until it ends, or stop it with Ctrl-C there"
    finished = read_limits(paths.database, "finished")
    if finished is not None and has_reached(finished, limits, spent_s) and paths.best_config.exists():
        return "nothing but show the result again: give a longer --budget, or more --trials, to go on"
    left = ", ".join(filter(None, (_time_left(limits, spent_s), _trials_left(limits, trials))))
    search = f"search on, {left}" if left else "search on"
    return f"{search}; then confirm and judge the finalists again as far as that is not done"


def _time_left(limits: Limits, spent_s: float) -> str:
    if limits.budget_s is None:
        return ""
    left_s = limits.budget_s - spent_s
    return f"with {format_clock(left_s)} left of {format_clock(limits.budget_s)}" if left_s > 0 else "with no time left"


def _trials_left(limits: Limits, trials: int) -> str:
    if limits.max_trials is None:
        return ""
    return f"up to {pluralize(max(0, limits.max_trials - trials), 'further trial')}"

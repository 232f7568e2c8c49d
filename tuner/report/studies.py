"""Find studies below a folder and summarize each in one record, from its files alone and without writing to them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from tuner.board.start import newest, no_such_study
from tuner.errors import BadInput
from tuner.files import StudyFolder, absent, kind_at, require_own_tree
from tuner.records.codec import Count, Estimate, Record, decode
from tuner.records.database import select
from tuner.records.outcome import Limits
from tuner.records.study_lock import holder, is_locked
from tuner.report.formatting import label
from tuner.result.config import read_best
from tuner.search.recorded import outcome_files
from tuner.search.request import read_request

State = Literal["running", "interrupted", "finished", "damaged"]

RESULT = "best_config.json"

ATTRIBUTE = "SELECT value_json FROM study_user_attributes WHERE key = ? LIMIT 1"


class StudySummary(Record):
    """One study in a list. `chosen` are the changed values of the choice, `gain` its speed-up; both may come later.

    A study that cannot be read is "damaged" and has only an `error`, which names the file.
    """

    folder: str
    state: State
    model: str | None = None
    device_name: str | None = None
    trials: Count = 0
    chosen_trial: Count | None = None
    chosen: str | None = None
    gain: Estimate | None = None
    error: str | None = None


class StudyList(Record):
    """The studies below a folder."""

    folder: str
    studies: tuple[StudySummary, ...]


def find_study(study: str | None, studies: Path) -> Path:
    """Find a study's folder by its path, by a file in it, or by its name in `studies`; without either the newest one.

    Raises BadInput if there is none.
    """
    if study is None:
        newest_one = newest(studies)
        require_own_tree(newest_one)
        return newest_one
    for folder in (Path(study), Path(study).parent, studies / study):
        if (folder / "study.json").exists():
            require_own_tree(folder)
            return folder
    raise no_such_study(study, studies)


def find_result(result: str | None, studies: Path) -> Path:
    """Find a best_config.json by its path, or that of a study, which is found as by `find_study`.

    Raises BadInput if there is none.
    """
    if result is not None and kind_at(result) not in (None, "a folder"):
        return Path(result)
    for folder in [newest(studies)] if result is None else [Path(result), studies / result]:
        if (folder / RESULT).exists():
            require_own_tree(folder)
            return folder / RESULT
        if (folder / "study.json").exists():
            raise no_result(folder)
    if result is not None and Path(result).suffix:
        raise BadInput(f"{result}: {absent(result, 'file')}; name a {RESULT}, or the folder or the name of a study")
    raise no_such_study(str(result), studies, RESULT)


def no_result(folder: Path) -> BadInput:
    """Make the error for a study that has no result yet."""
    found = holder(StudyFolder(folder).lock)
    remedy = f"{found}: ask again in a minute" if found else f"`tune resume {folder}` goes on"
    return BadInput(f"{folder / RESULT}: not there yet: no result so far; {remedy}")


def list_studies(folder: Path) -> StudyList:
    """Summarize all studies below a folder. Raises BadInput if there is no such folder."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: {absent(folder, 'folder')}")
    return StudyList(folder=str(folder), studies=tuple(map(summarize, find_all(folder))))


def find_all(folder: Path) -> Iterator[Path]:
    """Yield the study folders below a folder, by name. Links are not followed, nor is a study looked into."""
    for path, folders, files in os.walk(folder):
        folders.sort()
        if "study.json" in files:
            folders.clear()
            yield Path(path)


def summarize(folder: Path) -> StudySummary:
    """Summarize a study."""
    try:
        require_own_tree(folder)
        return _summarize(StudyFolder(folder))
    except BadInput as error:
        return StudySummary(folder=str(folder), state="damaged", error=str(error))


def _summarize(paths: StudyFolder) -> StudySummary:
    request = read_request(paths.request)
    best = read_best(paths.best_config) if paths.best_config.exists() else None
    return StudySummary(
        folder=str(paths.root),
        state=read_state(paths),
        model=request.model.source,
        device_name=request.environment.device_name,
        trials=sum(1 for _ in outcome_files(paths.trials)),
        chosen_trial=best.chosen.trial if best else None,
        chosen=label(best.chosen.changed) if best else None,
        gain=best.speed_up if best and best.chosen.trial else None,
    )


def read_state(paths: StudyFolder) -> State:
    """Return whether a study is running, came to its end within its limits, or neither."""
    if is_locked(paths.lock):
        return "running"
    return "interrupted" if read_limits(paths.database, "finished") is None else "finished"


def read_limits(database: Path, name: str) -> Limits | None:
    """Read limits that a study recorded in its database. Raises BadInput if it is damaged."""
    text = read_attribute(database, name)
    return decode(text, Limits, f"{database}: {name}") if text else None


def read_spent_s(database: Path) -> float:
    """Read how many seconds of its budget a study has used. Raises BadInput if the database is damaged."""
    if not database.is_file():
        return 0.0
    rows = select(database, "study_user_attributes", ATTRIBUTE, ("spent_s",))
    return decode(rows[0][0], float, f"{database}: spent_s") if rows else 0.0


def read_attribute(database: Path, name: str) -> str | None:
    """Read a text that a study recorded in its database, without writing to it. Raises BadInput if it is damaged."""
    if not database.is_file():
        return None
    try:
        rows = select(database, "study_user_attributes", ATTRIBUTE, (name,))
        return msgspec.json.decode(rows[0][0], type=str | None) if rows else None
    except msgspec.DecodeError as error:
        raise BadInput(f"{database}: damaged: {error}") from None

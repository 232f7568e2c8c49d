"""What other studies know: one of the same pipeline class gives the model of a new study its starting point."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tuner.errors import BadInput
from tuner.files import StudyFolder, atomic_write, require_own_tree
from tuner.records.codec import encode_pretty, read
from tuner.records.warm_start import FILE, WarmStart
from tuner.report.formatting import pluralize
from tuner.report.studies import find_all, find_study
from tuner.result import front
from tuner.search.agent.learnt import learnt
from tuner.search.history import BASELINE, History
from tuner.search.recorded import is_candidate, outcome_files, read_outcomes, read_repetitions
from tuner.search.request import Request, read_request
from tuner.study.course import strategy_of
from tuner.study.store import Store

AUTO, NONE = "auto", "none"

MIN_TRIALS = 8
"""Measured trials that a study must have to teach anything."""


def keep_warm_start(store: Store, wanted: str | None, studies: Path) -> None:
    """Record what another study teaches: the one that is wanted, or with `auto` the best of those in a folder.

    A study that was begun keeps what it has, also none, unless something is wanted. Raises BadInput if what is wanted
    is no study that teaches anything.
    """
    file = store.folder / FILE
    if wanted is None and (file.exists() or store.outcomes() or store.study.user_attrs.get("warm_start") == NONE):
        return
    warm = None
    if strategy_of(store) == "agent" and wanted != NONE:
        warm = best_of(store, studies) if wanted in (None, AUTO) else from_study(store, named(wanted, studies))
    if wanted is not None:
        store.study.set_user_attr("warm_start", wanted)
    if warm is not None:
        atomic_write(file, encode_pretty(warm))
    else:
        file.unlink(missing_ok=True)


def require_study(wanted: str | None, studies: Path) -> None:
    """Raise BadInput if --warm-start names a study that is not there."""
    if wanted not in (None, AUTO, NONE):
        named(wanted, studies)


def named(wanted: str, studies: Path) -> Path:
    """Return the folder of the study that --warm-start names. Raises BadInput if there is none."""
    try:
        return find_study(wanted, studies)
    except BadInput as error:
        raise BadInput(f"--warm-start {error}") from None


def read_warm_start(store: Store) -> WarmStart | None:
    """Read what another study taught. Raises BadInput if the file is damaged."""
    file = store.folder / FILE
    if not file.exists() or strategy_of(store) != "agent":
        return None
    warm = read(file, WarmStart)
    for index, effect in enumerate(warm.effects):
        if len(effect.settings) not in (1, 2):
            raise BadInput(f"{file}: effects[{index}].settings: {len(effect.settings)} settings, not one or two")
    for index, values in enumerate(warm.front):
        if not is_candidate(values, store.request):
            raise BadInput(f"{file}: front[{index}]: not a candidate of this study's search space")
    return warm


def warm_start_notes(warm: WarmStart | None) -> Iterator[str]:
    """Yield what to tell of the study that the model starts from, if there is one."""
    if warm is None:
        return
    device = "the same device" if warm.is_same_device else warm.device_name
    yield (
        f"the model starts from {pluralize(warm.trials, 'trial')} of {warm.study} on {device}; "
        "measurements decide (--warm-start none starts without)"
    )


def best_of(store: Store, studies: Path) -> WarmStart | None:
    """Return what the best study of the same pipeline class teaches: same device, same model, most trials first."""
    for folder in sorted(find_all(studies), key=lambda folder: _rank(folder, store.request), reverse=True):
        try:
            return from_study(store, folder)
        except BadInput:  # of another class, too small, or damaged
            continue
    return None


def _rank(folder: Path, own: Request) -> tuple[bool, bool, int]:
    try:
        other = read_request(StudyFolder(folder).request)
    except BadInput:
        return False, False, 0
    trials = sum(1 for _ in outcome_files(StudyFolder(folder).trials))
    return is_same_device(own, other), own.model.source == other.model.source, trials


def from_study(store: Store, folder: Path) -> WarmStart:
    """Return what a study teaches. Raises BadInput if it teaches nothing here, or is damaged."""
    own, paths = store.request, StudyFolder(folder)
    require_own_tree(folder)
    other = read_request(paths.request)
    outcomes = read_outcomes(paths, other)
    repetitions = read_repetitions(paths, other, outcomes)
    history = History(space=other.space, price=other.price, outcomes=outcomes, repetitions=repetitions)
    measured = front.measured(list(history.outcomes.values()))
    for reason in _refusals(store, folder, other, len(measured), has_baseline=BASELINE in [o.number for o in measured]):
        raise BadInput(f"--warm-start {folder}: {reason}")
    effects, best = learnt(history, own.space)
    if _measure(own) != _measure(other):
        effects = tuple(effect for effect in effects if effect.part != "loss")
    return WarmStart(
        study=str(folder), device_name=other.environment.device_name, is_same_device=is_same_device(own, other),
        trials=len(measured), effects=effects, front=best,
    )  # fmt: skip


def _refusals(store: Store, folder: Path, other: Request, measured: int, *, has_baseline: bool) -> Iterator[str]:
    """Yield why a study cannot be started from."""
    wanted, found = store.request.model.pipeline_class, other.model.pipeline_class
    if folder.resolve() == store.folder.resolve():
        yield "it is this study itself; name another"
    if found != wanted:
        yield f"it is a study of {found}, not of {wanted}"
    if measured < MIN_TRIALS or not has_baseline:
        yield f"it has {pluralize(measured, 'measured trial')}, too few to learn from; {MIN_TRIALS} are needed"


def is_same_device(one: Request, other: Request) -> bool:
    """Return whether two studies ran on devices of the same name."""
    return one.environment.device_name == other.environment.device_name


def _measure(request: Request) -> tuple[object, ...]:
    """Return what losses of quality are measured by."""
    return request.quality, request.model.scorer

"""Read the outcomes that a study recorded, and refuse those that do not belong to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from tuner.errors import BadInput
from tuner.files import StudyFolder, numbered
from tuner.knobs import KNOBS
from tuner.records.codec import Values, read
from tuner.records.outcome import Outcome
from tuner.search.consistency import Recorded, study_contradiction
from tuner.search.request import Request


def outcome_files(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield the number and the file of every acknowledged outcome in a folder of trials or repetitions, in order."""
    for number, own in numbered(folder).items():
        if (own / "outcome.json").exists():
            yield number, own / "outcome.json"


def read_outcomes(paths: StudyFolder, request: Request) -> dict[int, Outcome]:
    """Read every acknowledged outcome, by number. Raises BadInput with the file and the field."""
    outcomes = {}
    for number, file in outcome_files(paths.trials):
        outcome = _read(file, request)
        if outcome.number != number:
            raise BadInput(f"{file}: number: it is that of another trial, {outcome.number}")
        if outcome.repetition is not None:
            raise BadInput(f"{file}: repetition: a trial has none, only its repetitions have")
        outcomes[number] = outcome
    for number, outcome in outcomes.items():
        _check(paths.trial(number), Recorded(outcome, request, outcomes))
    return outcomes


def read_repetitions(paths: StudyFolder, request: Request, outcomes: Mapping[int, Outcome]) -> list[Outcome]:
    """Read every repetition of these trials, in the order of their ids. Raises BadInput with the file and the field."""
    repetitions: list[Outcome] = []
    for number, file in outcome_files(paths.repetitions):
        repetition = _read(file, request)
        if repetition.repetition != number:
            raise BadInput(f"{file}: repetition: it is that of another folder, {repetition.repetition}")
        original = outcomes.get(repetition.number)
        if original is None:
            lost = paths.trial(repetition.number) / "outcome.json"
            raise BadInput(f"{lost}: missing, although {file} repeats trial {repetition.number}")
        if original.values != repetition.values:
            raise BadInput(f"{file}: values: not those of trial {repetition.number}, which it repeats")
        _check(file.parent, Recorded(repetition, request, outcomes, repetitions))
        repetitions.append(repetition)
    return repetitions


def _read(file: Path, request: Request) -> Outcome:
    outcome = read(file, Outcome)
    if not is_candidate(outcome.values, request):
        raise BadInput(f"{file}: values: not a candidate of this study's search space")
    return outcome


def is_candidate(values: Values, request: Request) -> bool:
    """Return whether values are a candidate of a study's search space."""
    try:
        is_whole = {"steps", "batch"} <= values.keys() and request.space.candidate(values) == values
    except KeyError:  # the space has no baseline of a knob on which others depend
        return False
    return is_whole and not any(KNOBS[name].invalid_reason(value) for name, value in values.items())


def _check(folder: Path, recorded: Recorded) -> None:
    reason = study_contradiction(recorded)
    if reason is not None:
        raise BadInput(f"{folder / 'outcome.json'}: {reason}")

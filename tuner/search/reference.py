"""Where a study has the images of most prompts: the untouched pipeline's, to judge others against, and a trial's."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tuner.files import StudyFolder
from tuner.quality.reference import baseline_reference
from tuner.records.outcome import Outcome
from tuner.records.quality import Reference
from tuner.search.history import BASELINE, History


def images_of(paths: StudyFolder, run: Outcome) -> Path:
    """Return the folder with the images of a trial's first process, or of a repetition that judged more."""
    return paths.images(run.number) if run.repetition is None else paths.repetition(run.repetition) / "images"


def largest_reference(paths: StudyFolder, history: History) -> Reference:
    """Return what images are judged against on most prompts. The untouched pipeline must have been judged."""
    judged, first = history.judged_baseline, history.baseline.quality
    assert judged.quality is not None and first is not None
    return msgspec.structs.replace(
        baseline_reference(paths.trial(BASELINE), first),
        images=str(images_of(paths, judged)),
        scores=judged.quality.scores,
        floor=history.quality_floor,
    )

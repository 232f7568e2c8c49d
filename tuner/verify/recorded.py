"""What the study beside a best_config.json still has: the reference images, the gate's policy and allowances."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from tuner.errors import BadInput
from tuner.files import StudyFolder, require_own_tree
from tuner.quality.metrics import METRICS
from tuner.records.codec import Record, read
from tuner.records.gate import Allowance, GatePolicy
from tuner.records.model import Workload
from tuner.records.outcome import Outcome
from tuner.records.quality import NoiseFloor, QualityPolicy, Reference, SpotCheck
from tuner.result.records import BestConfig
from tuner.search.history import History
from tuner.search.recorded import outcome_files
from tuner.search.reference import images_of, largest_reference
from tuner.search.request import Request, read_request

ROUNDED_DB = 50.0
"""Images nearer than this differ by what their 8 bits round."""


class Recorded(Record):
    """What a verification takes from the study. Without a study the gate is the default one.

    `reference` is what images are judged against, or None with the `unavailable_reason`. `folder` is the study's.
    """

    workload: Workload
    gate: GatePolicy = GatePolicy()
    allowed: tuple[Allowance, ...] = ()
    quality: QualityPolicy = QualityPolicy()
    reference: Reference | None = None
    unavailable_reason: str | None = None
    request: Request | None = None
    folder: str | None = None

    def known_images(self, trial: int) -> SpotCheck | None:
        """Return the images that a trial was judged by, if the study still has them.

        A trial's own must come out again, up to what their 8 bits round. Where it was judged by those of another build,
        as near to them as the study asked for.
        """
        if self.folder is None:
            return None
        paths, owner = StudyFolder(Path(self.folder)), trial
        with suppress(BadInput):
            owner = read(paths.trial(trial) / "outcome.json", Outcome).image_owner
        images = paths.images(owner)
        if not images.is_dir():
            return None
        known = SpotCheck(images=str(images))
        return msgspec.structs.replace(known, min_psnr_db=ROUNDED_DB) if owner == trial else known


def read_recorded(file: Path, best: BestConfig) -> Recorded:
    """Read the study of a best_config.json from its folder, as far as it is there and is this result's."""
    paths = StudyFolder(file.resolve().parent)
    reason = f"no study is in {paths.root}, whose images are the reference"
    if not paths.request.exists():
        return Recorded(workload=best.workload, unavailable_reason=reason)
    try:
        require_own_tree(paths.root)
        request = read_request(paths.request)
        history = read_baseline(paths, request)
    except BadInput as error:
        return Recorded(workload=best.workload, unavailable_reason=str(error))
    if (request.model, request.space.workload) != (best.model, best.workload):
        reason = f"the study in {paths.root} is of another model or workload"
        return Recorded(workload=best.workload, unavailable_reason=reason)
    return _recorded(paths, request, history)


def read_baseline(paths: StudyFolder, request: Request) -> History:
    """Read of the trials the untouched pipeline's only, and its noise floor: a damaged other trial matters nothing."""
    baseline = read(paths.trial(0) / "outcome.json", Outcome)
    late = read(paths.noise_floor, NoiseFloor) if paths.noise_floor.exists() else None
    return History(
        space=request.space,
        price=request.price,
        outcomes={0: baseline},
        repetitions=list(_judged_later(paths)),
        late_noise_floor=late,
    )


def _judged_later(paths: StudyFolder) -> Iterator[Outcome]:
    """Yield the repetitions of the untouched pipeline that have the images of more prompts."""
    for _, file in outcome_files(paths.repetitions):
        with suppress(BadInput):
            repetition = read(file, Outcome)
            if repetition.number == 0 and repetition.quality is not None:
                yield repetition


def _recorded(paths: StudyFolder, request: Request, history: History) -> Recorded:
    reason = _no_reference_reason(paths, request, history)
    reference = None
    if reason is None:
        reference = msgspec.structs.replace(largest_reference(paths, history), denoiser=None)
    return Recorded(
        workload=request.space.workload.first(len(reference.scores)) if reference else history.judged_workload,
        gate=request.space.gate,
        allowed=history.allowances(),
        quality=request.quality,
        reference=reference,
        unavailable_reason=reason,
        request=request,
        folder=str(paths.root),
    )


def _no_reference_reason(paths: StudyFolder, request: Request, history: History) -> str | None:
    """Return why the images cannot be judged as in the study, or None."""
    quality = request.quality
    if quality.metric not in METRICS or quality.metric_paths:
        return f"the study's metric {quality.metric} is your own code or files, which a file must not choose"
    baseline = history.outcomes.get(0)
    if baseline is None or baseline.quality is None:
        return "the study has no scores of the untouched pipeline"
    images = images_of(paths, history.judged_baseline)
    if not images.is_dir():
        return f"{images}: the untouched pipeline's images are not there any more"
    return None

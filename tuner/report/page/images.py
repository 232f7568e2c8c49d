"""The finalists' images beside the baseline's, small enough to lie in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import BadInput
from tuner.files import StudyFolder, read_file, thumbnail_path
from tuner.quality.images import still_name
from tuner.report.points import FrontPoint
from tuner.report.study_report import StudyReport
from tuner.search.history import BASELINE

MAX_PROMPTS = 4
MAX_STRIPS = 4
MAX_FILE_BYTES = 64 << 20
MAX_PIXELS = 1 << 26
MAX_BYTES = 3_600_000
"""Of all images in the page, before base64 makes them a third larger."""

SIDES = (512, 384, 256, 192, 128)
"""Pixels of the longer side; the first with which all images have room is taken. Images are never enlarged."""

QUALITY = 88


@dataclass(frozen=True)
class Cell:
    """One prompt and seed: the baseline's image and the candidate's, as addresses that hold the image itself."""

    prompt: str
    seed: int
    before: str
    after: str
    width: int
    height: int


@dataclass(frozen=True)
class Strip:
    """The images of a finalist."""

    point: FrontPoint
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Encoded:
    """An image as the page has it."""

    data: bytes
    width: int
    height: int
    format: str

    @property
    def address(self) -> str:
        """The image as the source of an element."""
        return f"data:image/{self.format};base64,{base64.b64encode(self.data).decode()}"


def strips(report: StudyReport) -> list[Strip]:
    """Return the strips of the chosen configuration and of further finalists; none if there are no images.

    Raises BadInput with the path if an image is damaged.
    """
    files = {point: found for point in _finalists(report) if (found := _files(report, point.number))}
    baseline = _files(report, report.best.baseline.trial)
    points = list(files)[:MAX_STRIPS]
    if not baseline or not points:
        return []
    images = _fitting({file for each in (baseline, *(files[point] for point in points)) for file in each})
    return [Strip(point, tuple(_cells(report, baseline, files[point], images))) for point in points]


def _finalists(report: StudyReport) -> list[FrontPoint]:
    """Return the finalists but the baseline, the chosen one first, then those with the best images."""
    others = [point for point in report.points if not point.is_baseline]
    return sorted(others, key=lambda point: (not point.is_chosen, -point.quality))


def _files(report: StudyReport, number: int) -> tuple[Path, ...]:
    """Return the first images of a trial, one per prompt; those that it shares with another trial if it has none."""
    outcome = next((outcome for outcome in report.outcomes if outcome.number == number), None)
    if outcome is None or outcome.quality is None:
        return ()
    source = number if outcome.quality.reused_from is None else outcome.quality.reused_from
    folder = StudyFolder(Path(report.folder)).images(source)
    count, each = len(outcome.quality.scores), _stills_per_prompt(report)
    files = [folder / still_name(index * each) for index in range(min(count, MAX_PROMPTS))]
    return tuple(file for file in files if file.is_file())


def _stills_per_prompt(report: StudyReport) -> int:
    """Return the stills of each prompt, by the baseline's: other trials may have been judged on more than they show."""
    baseline = next((outcome for outcome in report.outcomes if outcome.number == BASELINE), None)
    folder = StudyFolder(Path(report.folder)).images(BASELINE)
    if baseline is None or baseline.quality is None or not folder.is_dir():
        return 1
    return max(1, sum(1 for _ in folder.glob("*.png")) // len(baseline.quality.scores))


def _cells(
    report: StudyReport, before: Sequence[Path], after: Sequence[Path], images: Mapping[Path, Encoded]
) -> Iterator[Cell]:
    workload = report.request.space.workload
    for prompt, seed, theirs, ours in zip(workload.prompts, workload.seeds, before, after, strict=False):
        first = images[theirs]
        yield Cell(prompt, seed, first.address, images[ours].address, first.width, first.height)


def _fitting(files: set[Path]) -> dict[Path, Encoded]:
    """Return all images at the largest size with which they have room: the small copies beside them, or made anew."""
    copies = {file: copy for file in files if (copy := small_copy(file)) is not None}
    if copies.keys() == files and sum(len(image.data) for image in copies.values()) <= MAX_BYTES:
        return copies
    stills = {file: read_still(file) for file in files}
    for side in SIDES:
        images = {file: encode(still, side) for file, still in stills.items()}
        if sum(len(image.data) for image in images.values()) <= MAX_BYTES:
            break
    return images


def small_copy(file: Path) -> Encoded | None:
    """Return the copy that was written beside a large image; None if there is none that can be read."""
    from PIL import Image

    try:
        data = read_file(thumbnail_path(file), MAX_FILE_BYTES)
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return Encoded(data, image.width, image.height, "jpeg") if max(image.size) <= SIDES[0] else None
    except Exception:  # what lies there may be anything; the image itself is still there
        return None


def read_still(file: Path) -> Any:
    """Return an image, made smaller if it is larger than any in the page. Raises BadInput with the path."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(read_file(file, MAX_FILE_BYTES)), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadInput(f"{file}: {image.width}x{image.height} pixels are too many")
            still = image.convert("RGB")
    except BadInput:
        raise
    except Exception as error:  # Pillow raises whatever its readers do
        raise BadInput(f"{file}: not an image: {error}") from None
    still.thumbnail((SIDES[0], SIDES[0]), Image.Resampling.LANCZOS)
    return still


def encode(still: Any, side: int) -> Encoded:
    """Return an image as WebP, its longer side at most `side` pixels."""
    smaller, buffer = still.copy(), io.BytesIO()
    smaller.thumbnail((side, side))
    smaller.save(buffer, "WEBP", quality=QUALITY, method=4)
    return Encoded(buffer.getvalue(), smaller.width, smaller.height, "webp")

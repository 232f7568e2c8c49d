"""One trial in TensorBoard: a row of HParams, its scalars, its verdict and its images, in one events file.

The file is built from tensorboard's own protos, without its SummaryWriter: that one needs torch or TensorFlow. It is
written whole and moved into place, so that a killed study never leaves half a row.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

STATUS, RESULT = "Status", "Result"
"""Columns beside the knobs. TensorBoard first shows those five that differ between trials and come first by name, and
capitals sort before the knobs' small letters."""

_FILES = "events.out.tfevents.*"
_IMAGES = 4
_LONGEST_SIDE = 512
_GAP_SHARE = 16


@dataclass(frozen=True)
class ShownImage:
    """A PNG file, its prompt (`shows`), a description (`of`), and the baseline's image to show at its left."""

    file: Path
    shows: str
    of: str
    baseline: Path | None


@dataclass(frozen=True)
class Row:
    """What TensorBoard shows of a trial. `status` is like `rejected:sync`, `result` like `chosen`, `text` Markdown."""

    number: int
    status: str
    result: str
    knobs: Mapping[str, str]
    metrics: Mapping[str, float]
    text: str
    images: Sequence[ShownImage]


def write_trial(folder: Path, row: Row) -> None:
    """Write a trial's events file into its folder and remove earlier ones.

    The first four images are shown. One that cannot be read is left out: its writer may have been killed.
    """
    shown = [(image, sheet) for image in row.images[:_IMAGES] if (sheet := _side_by_side(image))]
    values = [
        *_hparams(row),
        *(Summary.Value(tag=name, simple_value=value) for name, value in row.metrics.items()),
        _text(row.text),
        *(_image(index, image, sheet) for index, (image, sheet) in enumerate(shown)),
    ]
    _replace_events(folder, row.number, values)


def _hparams(row: Row) -> list[Summary.Value]:
    """Return the trial's row of HParams. No trial defines columns, so that TensorBoard infers them from all trials."""
    now = time.time()
    failed = row.status.startswith("failed")
    start = SessionStartInfo(start_time_secs=now)
    for name, value in {STATUS: row.status, RESULT: row.result, **row.knobs}.items():
        start.hparams[name].string_value = value
    end = SessionEndInfo(end_time_secs=now, status=api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS)
    return [
        _hparams_value(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start)),
        _hparams_value(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end)),
    ]


def _hparams_value(tag: str, data: HParamsPluginData) -> Summary.Value:
    return Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)


def _text(text: str) -> Summary.Value:
    about = text_metadata.create_summary_metadata(display_name="verdict", description="")
    return Summary.Value(tag="verdict", metadata=about, tensor=make_tensor_proto([text.encode()]))


def _image(index: int, image: ShownImage, sheet: Any) -> Summary.Value:
    about = image_metadata.create_summary_metadata(
        display_name=image.shows, description=image.of, converted_to_tensor=True
    )
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    tensor = make_tensor_proto([str(sheet.width).encode(), str(sheet.height).encode(), buffer.getvalue()])
    return Summary.Value(tag=f"images/{index}", metadata=about, tensor=tensor)


def _side_by_side(image: ShownImage) -> Any | None:
    """Return an image beside the baseline's, reduced for a page of many; None if either cannot be read."""
    from PIL import Image

    shown = []
    for file in filter(None, (image.baseline, image.file)):
        try:
            with Image.open(file) as opened:
                shown.append(opened.convert("RGB"))
        except (OSError, SyntaxError, ValueError):  # Pillow's errors for truncated files and other formats
            return None
        shown[-1].thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    gap = max(1, shown[0].width // _GAP_SHARE)
    sheet = Image.new(
        "RGB", (sum(part.width + gap for part in shown) - gap, max(part.height for part in shown)), "white"
    )
    left = 0
    for part in shown:
        sheet.paste(part, (left, 0))
        left += part.width + gap
    return sheet


def _replace_events(folder: Path, step: int, values: Iterable[Summary.Value]) -> None:
    now = time.time()
    target = folder / f"events.out.tfevents.{int(now):010d}.tune.{os.getpid()}"
    part = folder / ".events.part"
    buffer = BytesIO()
    records = RecordWriter(buffer)
    records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    records.write(Event(wall_time=now, step=step, summary=Summary(value=values)).SerializeToString())
    folder.mkdir(parents=True, exist_ok=True)
    part.write_bytes(buffer.getvalue())
    for former in folder.glob(_FILES):
        former.unlink()
    part.replace(target)

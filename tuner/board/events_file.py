"""One trial in TensorBoard: a row of HParams, its scalars and its verdict in one events file, its images in others.

A row is written again whenever the trial's place in the result changes; images take a thousand times as long and are
written once. The files are built from tensorboard's own protos, without its SummaryWriter: that one needs torch or
TensorFlow. Each is written whole and moved into place, so that a killed study never leaves half a row.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import google_crc32c
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.util.tensor_util import make_tensor_proto

from tuner.files import thumbnail_path

COST, QUALITY, RESULT, STATUS = "Cost US$/1000", "Quality", "Result", "Status"
"""Columns beside the knobs. TensorBoard first shows those five that differ between trials and come first by name, and
capitals sort before the knobs' small letters. Its metrics stand at the far right: the two main ones are columns."""

IMAGES, ROW, STRIP = "images", "row", "strip"
"""How the names of the files end. TensorBoard reads files by name, and never one that comes before another it read:
what is written again has to be the later one."""

_JPEG = {"format": "JPEG", "quality": 85, "subsampling": 0}
_LONGEST_SIDE = 512
_GAP_SHARE = 16


@dataclass(frozen=True)
class ShownImage:
    """A PNG file, its tag, its prompt (`shows`), a description (`of`), and the baseline's image to show at its left.

    Images of one tag stand together, those of all trials. None is shown larger than `longest_side` pixels.
    """

    file: Path
    tag: str
    shows: str
    of: str
    baseline: Path | None
    longest_side: int = _LONGEST_SIDE


@dataclass(frozen=True)
class Row:
    """What TensorBoard shows of a trial. `status` is like `rejected:sync`, `result` like `chosen`, `text` Markdown.

    `numbers` are columns of numbers, absent where nothing was measured.
    """

    number: int
    status: str
    result: str
    knobs: Mapping[str, str]
    numbers: Mapping[str, float]
    metrics: Mapping[str, float]
    text: str


def write_row(folder: Path, row: Row) -> None:
    """Write a trial's row into its folder, in place of an earlier one."""
    values = [
        *_hparams(row),
        *(Summary.Value(tag=name, simple_value=value) for name, value in row.metrics.items()),
        text_value("verdict", row.text),
    ]
    replace_events(folder, ROW, row.number, values)


def write_images(folder: Path, kind: str, number: int, images: Iterable[ShownImage]) -> None:
    """Write one kind of a trial's images into its folder, in place of earlier ones.

    An image that cannot be read is left out: its writer may have been killed.
    """
    shown = [(image, sheet) for image in images if (sheet := _side_by_side(image))]
    values = [image_value(image.tag, image.shows, image.of, sheet, **_JPEG) for image, sheet in shown]
    replace_events(folder, kind, number, values)


def _hparams(row: Row) -> list[Summary.Value]:
    """Return the trial's row of HParams. No trial defines columns, so that TensorBoard infers them from all trials."""
    now = time.time()
    failed = row.status.startswith("failed")
    start = SessionStartInfo(start_time_secs=now)
    for name, value in {STATUS: row.status, RESULT: row.result, **row.knobs}.items():
        start.hparams[name].string_value = value
    for name, number in row.numbers.items():
        start.hparams[name].number_value = number
    end = SessionEndInfo(end_time_secs=now, status=api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS)
    return [
        _hparams_value(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start)),
        _hparams_value(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end)),
    ]


def _hparams_value(tag: str, data: HParamsPluginData) -> Summary.Value:
    return Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)


def text_value(tag: str, text: str) -> Summary.Value:
    """Make a text in Markdown."""
    about = text_metadata.create_summary_metadata(display_name=tag, description="")
    return Summary.Value(tag=tag, metadata=about, tensor=make_tensor_proto([text.encode()]))


def image_value(tag: str, name: str, description: str, image: Any, **encoding: Any) -> Summary.Value:
    """Make an image, of one of Pillow's, in the encoding that its `save` takes."""
    about = image_metadata.create_summary_metadata(display_name=name, description=description, converted_to_tensor=True)
    buffer = BytesIO()
    image.save(buffer, **encoding)
    tensor = make_tensor_proto([str(image.width).encode(), str(image.height).encode(), buffer.getvalue()])
    return Summary.Value(tag=tag, metadata=about, tensor=tensor)


def _side_by_side(image: ShownImage) -> Any | None:
    """Return an image beside the baseline's, reduced for a page of many; None if either cannot be read."""
    from PIL import Image

    shown = []
    for file in filter(None, (image.baseline, image.file)):
        small = thumbnail_path(file)
        try:
            with Image.open(small if image.longest_side <= _LONGEST_SIDE and small.is_file() else file) as opened:
                shown.append(opened.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # truncated, another format, too large
            return None
        shown[-1].thumbnail((image.longest_side, image.longest_side))
    gap = max(1, shown[0].width // _GAP_SHARE)
    sheet = Image.new(
        "RGB", (sum(part.width + gap for part in shown) - gap, max(part.height for part in shown)), "white"
    )
    left = 0
    for part in shown:
        sheet.paste(part, (left, 0))
        left += part.width + gap
    return sheet


def replace_events(folder: Path, kind: str, step: int, values: Sequence[Summary.Value]) -> None:
    """Write one kind of a run's events files whole, in place of earlier ones; none if there are no values."""
    folder.mkdir(parents=True, exist_ok=True)
    former = list(folder.glob(f"events.out.tfevents.*.{kind}"))
    now = time.time()
    part = folder / ".events.part"
    written = folder / f"events.out.tfevents.{int(now):010d}.{os.getpid()}.{kind}"
    if values:
        part.write_bytes(_records(now, step, values))
        part.replace(written)
    for file in former:
        if not values or file != written:  # within a second the name is the same
            file.unlink()


def _records(now: float, step: int, values: Iterable[Summary.Value]) -> bytes:
    events = (
        Event(wall_time=now, file_version="brain.Event:2"),
        Event(wall_time=now, step=step, summary=Summary(value=values)),
    )
    return b"".join(_record(event.SerializeToString()) for event in events)


def _record(data: bytes) -> bytes:
    """Frame data as a TFRecord: its length and itself, a checksum after each (tensorflow/core/lib/io/record_writer.h).

    The RecordWriter of tensorboard computes the checksums in Python: 0.2 s for a trial's four images.
    """
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    rotated = (crc >> 15) | (crc << 17)
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)

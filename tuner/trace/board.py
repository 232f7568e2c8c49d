"""One trial in TensorBoard: a row of HParams, its scalars, its verdict and its pictures, in one events file.

The file is built from tensorboard's own protos, without its SummaryWriter: that one needs torch or TensorFlow. It is
written whole and moved into place, so that a killed study never leaves half a row.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

_FILES = "events.out.tfevents.*"
_PICTURES = 4


def write_trial(  # noqa: PLR0913, PLR0917
    folder: Path,
    hparams: Mapping[str, str],
    domains: Mapping[str, Sequence[str]],
    metrics: Mapping[str, float],
    metric_names: Sequence[str],
    status: str,
    text: str,
    images: Sequence[Path],
) -> None:
    """Write a trial's events file into its folder, in place of a former one.

    `domains` (every knob of the study and its values) and `metric_names` must be the same for each trial of a study:
    TensorBoard takes the columns of its table from any one of them. `status` is a column too, for example
    `rejected:graph break`. The first four `images`, PNG files, are shown as they are; `text` is Markdown.
    """
    values = [
        *_row({**hparams, "status": status}, domains, metric_names, status),
        *(Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()),
        _text(text),
        *(_picture(f"pictures/{index}", path) for index, path in enumerate(images[:_PICTURES])),
    ]
    _replace_events(folder, values)


def _row(
    hparams: Mapping[str, str], domains: Mapping[str, Sequence[str]], metric_names: Sequence[str], status: str
) -> list[Summary.Value]:
    now = time.time()
    failed = status.startswith("failed")
    start = SessionStartInfo(start_time_secs=now)
    for name, value in hparams.items():
        start.hparams[name].string_value = value
    end = SessionEndInfo(end_time_secs=now, status=api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS)
    return [
        _hparams_value(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=_experiment(domains, metric_names))),
        _hparams_value(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start)),
        _hparams_value(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end)),
    ]


def _experiment(domains: Mapping[str, Sequence[str]], metric_names: Sequence[str]) -> api_pb2.Experiment:
    columns = [_column("status", ())] + [_column(name, values) for name, values in domains.items()]
    metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=name)) for name in metric_names]
    return api_pb2.Experiment(hparam_infos=columns, metric_infos=metrics)


def _column(name: str, values: Sequence[str]) -> api_pb2.HParamInfo:
    column = api_pb2.HParamInfo(name=name, type=api_pb2.DATA_TYPE_STRING)
    for value in values:
        column.domain_discrete.values.add(string_value=value)
    return column


def _hparams_value(tag: str, data: HParamsPluginData) -> Summary.Value:
    return Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)


def _text(text: str) -> Summary.Value:
    about: SummaryMetadata = create_summary_metadata(display_name="verdict", description="")
    return Summary.Value(tag="verdict", metadata=about, tensor=make_tensor_proto([text.encode()]))


def _picture(tag: str, path: Path) -> Summary.Value:
    png = path.read_bytes()
    width, height = struct.unpack(">II", png[16:24])  # where every PNG file keeps its size
    image = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=3)
    return Summary.Value(tag=tag, image=image)


def _replace_events(folder: Path, values: Iterable[Summary.Value]) -> None:
    now = time.time()
    target = folder / f"events.out.tfevents.{int(now):010d}.tune.{os.getpid()}"
    part = folder / ".events.part"
    buffer = BytesIO()
    records = RecordWriter(buffer)
    records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    records.write(Event(wall_time=now, step=0, summary=Summary(value=values)).SerializeToString())
    folder.mkdir(parents=True, exist_ok=True)
    part.write_bytes(buffer.getvalue())
    for former in folder.glob(_FILES):
        former.unlink()
    part.replace(target)

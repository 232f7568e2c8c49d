"""What is written is what TensorBoard and its profiler plugin show."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata

from tuner.trace.board import write_trial

DOMAINS = {"compile.mode": ["none", "default"], "steps": ["4", "8"]}


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + b"\x80" * 3 * width for _ in range(height)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def write(folder: Path, status: str = "ok", images: int = 1, latency: float = 1.5) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(images):
        path = folder / f"{index}.png"
        path.write_bytes(png(4, 2))
        paths.append(path)
    hparams = {"compile.mode": "default", "steps": "4"}
    metrics = {"latency_s": latency} if status == "ok" else {}
    write_trial(folder, hparams, DOMAINS, metrics, ["latency_s", "quality"], status, f"**{status}**", paths)


def loaded(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def row(events: EventAccumulator) -> dict[str, str]:
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = metadata.parse_session_start_info_plugin_data(content)
    return {name: value.string_value for name, value in start.hparams.items()}


def test_a_trial_is_loaded_whole(tmp_path: Path) -> None:
    write(tmp_path, images=6)
    events = loaded(tmp_path)
    assert row(events) == {"compile.mode": "default", "steps": "4", "status": "ok"}
    assert [(e.step, e.value) for e in events.Scalars("latency_s")] == [(0, 1.5)]
    assert events.Tags()["images"] == [f"pictures/{i}" for i in range(4)]
    image = events.Images("pictures/0")[0]
    assert (image.width, image.height, image.encoded_image_string) == (4, 2, png(4, 2))
    assert events.Tensors("verdict")[0].tensor_proto.string_val == [b"**ok**"]


def test_every_trial_has_the_same_columns(tmp_path: Path) -> None:
    write(tmp_path / "0")
    write(tmp_path / "1", status="rejected:graph break", images=0)
    experiments = [
        metadata.parse_experiment_plugin_data(
            loaded(tmp_path / n).SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
        )
        for n in ("0", "1")
    ]
    assert experiments[0] == experiments[1]
    assert [info.name for info in experiments[0].hparam_infos] == ["status", "compile.mode", "steps"]
    assert [info.name.tag for info in experiments[0].metric_infos] == ["latency_s", "quality"]


def test_writing_again_replaces_the_row(tmp_path: Path) -> None:
    write(tmp_path, status="failed:out of memory")
    write(tmp_path, latency=2.5)
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
    events = loaded(tmp_path)
    assert row(events)["status"] == "ok"
    assert [e.value for e in events.Scalars("latency_s")] == [2.5]


def test_the_hparams_plugin_lists_the_rows(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    write(tmp_path / "0000")
    write(tmp_path / "0001", status="rejected:graph break", images=0)
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(tmp_path))
    context = backend_context.Context(TBContext(data_provider=provider, logdir=str(tmp_path)))
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=[api_pb2.STATUS_SUCCESS],
        start_index=0,
        slice_size=10,
        aggregation_type=api_pb2.AGGREGATION_AVG,
    )
    experiment_id = ""
    request_context = RequestContext()
    experiment = context.experiment_from_metadata(
        request_context,
        experiment_id,
        True,
        context.hparams_metadata(request_context, experiment_id),
        context.hparams_from_data_provider(request_context, experiment_id, limit=1000),
    )
    metadata_by_run = context.hparams_metadata(request_context, experiment_id)
    handler = list_session_groups.Handler(request_context, context, experiment_id, request)
    groups = handler.run().session_groups
    assert metadata_by_run
    assert experiment.metric_infos
    assert sorted(group.hparams["status"].string_value for group in groups) == ["ok", "rejected:graph break"]


def test_the_profiler_plugin_lists_the_run(planted: Any, tmp_path: Path) -> None:
    loader = pytest.importorskip("torch_tb_profiler.profiler.loader")
    from torch_tb_profiler import io
    from torch_tb_profiler.profiler.data import RunProfileData  # noqa: F401  (breaks the package's import circle)

    trial = tmp_path / "0007"
    write(trial)
    planted.kernel(100, 300)
    planted.save(trial, "trial.1700000000000000000.pt.trace.json.gz")
    run = loader.RunLoader("0007", str(trial), io.Cache()).load()
    assert run.workers == ["trial"]
    assert {"Overview", "Operator", "Kernel", "Trace"} <= {view.display_name for view in run.views}

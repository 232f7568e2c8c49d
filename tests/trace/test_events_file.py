"""What is written is what TensorBoard and its profiler plugin show."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata

from tuner.board.events_file import IMAGES, RESULT, STATUS, Row, ShownImage, write_images, write_row

KNOBS = {"compile.mode": "default", "steps": "4"}


def write(
    folder: Path,
    number: int = 0,
    status: str = "ok",
    images: int = 1,
    latency: float = 1.5,
    knobs: Mapping[str, str] = KNOBS,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shown_images = []
    for index in range(images):
        Image.new("RGB", (40, 20), "#888").save(folder / f"{index}.png")
        shown_images.append(
            ShownImage(folder / f"{index}.png", f"images/{index}", f"prompt {index}", "it", baseline=None)
        )
    metrics = {"latency_s": latency} if status == "ok" else {}
    result = "front" if number else "baseline"
    write_images(folder, IMAGES, number, shown_images)
    write_row(folder, Row(number, status, result, knobs, {}, metrics, f"**{status}**"))


def loaded(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def row(events: EventAccumulator) -> dict[str, str]:
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = metadata.parse_session_start_info_plugin_data(content)
    return {name: value.string_value for name, value in start.hparams.items()}


def shown(events: EventAccumulator, tag: str) -> Any:
    """An image as TensorBoard has it, after its width and height."""
    width, height, data = events.Tensors(tag)[0].tensor_proto.string_val
    image = Image.open(BytesIO(data))
    assert (int(width), int(height)) == image.size
    return image


def test_a_trial_is_loaded_whole(tmp_path: Path) -> None:
    write(tmp_path, number=7, images=4)
    events = loaded(tmp_path)
    assert row(events) == {"compile.mode": "default", "steps": "4", STATUS: "ok", RESULT: "front"}
    assert [(e.step, e.value) for e in events.Scalars("latency_s")] == [(7, 1.5)]
    assert {tag for tag in events.Tags()["tensors"] if tag.startswith("images")} == {f"images/{i}" for i in range(4)}
    assert shown(events, "images/0").size == (40, 20)
    about = events.SummaryMetadata("images/0")
    assert (about.display_name, about.summary_description) == ("prompt 0", "it")
    assert events.Tensors("verdict")[0].tensor_proto.string_val == [b"**ok**"]


def test_an_image_stands_beside_the_baselines(tmp_path: Path) -> None:
    Image.new("RGB", (1600, 800), "#f00").save(tmp_path / "baseline.png")
    Image.new("RGB", (1600, 800), "#00f").save(tmp_path / "own.png")
    image = ShownImage(tmp_path / "own.png", "images/0", "a cat", "a pair", baseline=tmp_path / "baseline.png")
    write_images(tmp_path, IMAGES, 1, [image])
    sheet = shown(loaded(tmp_path), "images/0")
    assert sheet.size == (512 + 32 + 512, 256)
    colours = [sheet.getpixel((x, 128)) for x in (10, 528, 1040)]
    assert colours == [(254, 0, 0), (255, 255, 255), (0, 0, 254)], "as JPEG"


@pytest.mark.parametrize("bytes_left", [0, 5, 60, -40])
def test_an_image_that_was_cut_off_is_left_out(bytes_left: int, tmp_path: Path) -> None:
    """As of a worker that was killed while it wrote."""
    good, broken = tmp_path / "good.png", tmp_path / "broken.png"
    Image.effect_noise((40, 20), 50).save(good)
    broken.write_bytes(good.read_bytes()[:bytes_left])
    shown_images = [
        ShownImage(file=broken, tag="images/0", shows="broken", of="", baseline=None),
        ShownImage(file=good, tag="images/1", shows="beside a broken one", of="", baseline=broken),
        ShownImage(file=good, tag="images/2", shows="good", of="", baseline=None),
    ]
    write_images(tmp_path, IMAGES, 1, shown_images)
    events = loaded(tmp_path)
    assert [tag for tag in events.Tags()["tensors"] if tag.startswith("images")] == ["images/2"]
    assert events.SummaryMetadata("images/2").display_name == "good"


def test_writing_again_replaces_the_row(tmp_path: Path) -> None:
    write(tmp_path, status="failed:out of memory")
    write(tmp_path, latency=2.5)
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2, "its row and its images"
    events = loaded(tmp_path)
    assert row(events)[STATUS] == "ok"
    assert [e.value for e in events.Scalars("latency_s")] == [2.5]


def test_the_row_stays_if_another_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, images=0)

    def fail(file: Path, target: Path) -> None:
        raise OSError("planted")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="planted"):
        write(tmp_path, images=0, status="failed:out of memory")
    assert row(loaded(tmp_path))[STATUS] == "ok"


@pytest.fixture
def table(tmp_path: Path) -> tuple[Any, list[Any]]:
    """What TensorBoard's HParams makes of three trials: the columns, and the rows that `rejected:sync` leaves."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    write(tmp_path / "0000")
    write(tmp_path / "0001", 1, status="rejected:sync", images=0, knobs={"steps": "4", "batch": "2"})
    write(tmp_path / "0002", 2, status="rejected:break", images=0, knobs={**KNOBS, "steps": "8"})
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(tmp_path))
    context = backend_context.Context(TBContext(data_provider=provider, logdir=str(tmp_path)))
    request_context = RequestContext()
    experiment = context.experiment_from_metadata(
        request_context, "", True, context.hparams_metadata(request_context, ""),
        context.hparams_from_data_provider(request_context, "", limit=1000),
    )  # fmt: skip
    only = api_pb2.ColParams(hparam=STATUS)
    only.filter_discrete.values.add(string_value="rejected:sync")
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=[api_pb2.STATUS_SUCCESS], col_params=[only], start_index=0, slice_size=10,
        aggregation_type=api_pb2.AGGREGATION_AVG,
    )  # fmt: skip
    groups = list_session_groups.Handler(request_context, context, "", request).run().session_groups
    return experiment, list(groups)


def test_the_columns_are_the_knobs_of_all_trials(table: tuple[Any, list[Any]]) -> None:
    experiment, _ = table
    columns = {info.name: info for info in experiment.hparam_infos}
    assert columns.keys() == {RESULT, STATUS, "batch", "compile.mode", "steps"}
    assert [info.name for info in experiment.hparam_infos[:2]] == [RESULT, STATUS]
    assert [info.name.tag for info in experiment.metric_infos] == ["latency_s"]
    values = {value.string_value for value in columns[STATUS].domain_discrete.values}
    assert values == {"ok", "rejected:sync", "rejected:break"}


def test_the_rows_can_be_filtered_by_status(table: tuple[Any, list[Any]]) -> None:
    _, rows = table
    assert [group.hparams["steps"].string_value for group in rows] == ["4"]
    assert [group.hparams[STATUS].string_value for group in rows] == ["rejected:sync"]


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

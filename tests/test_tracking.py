"""Trials in MLflow and Weights & Biases: their own clients, and a study whose tracker is there, gone or absent."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Timer
from types import SimpleNamespace
from typing import Any

import pytest
from inline_study import Bench
from PIL import Image

from tuner import cli
from tuner.commands import arguments
from tuner.tracking import queue
from tuner.tracking.tracker import Tracker, TrialRun
from tuner.tracking.trackers import TRACKERS
from tuner.tracking.wandb import WandB

PROGRAM = """
import json, sys
from pathlib import Path
from tuner.tracking.tracker import TrialRun
from tuner.tracking.trackers import connect

for latency_s, result in ((0.5, "-"), (0.4, "chosen")):  # a second run of the study, or a repetition
    tracker = connect([sys.argv[1]], "demo-1a2b3c4d")[sys.argv[1]]
    for number, metrics in ((7, {"latency_s": latency_s, "quality": 30.5}), (8, {})):
        tags = {"status": "ok" if metrics else "failed:timeout", "result": result}
        images = [Path(sys.argv[2])] if metrics else []
        tracker.log(TrialRun(number, {"compile.scope": "regional", "steps": "6"}, metrics, tags, images))
assert not {"torch", "diffusers"} & sys.modules.keys(), "the parent imports no torch"
"""


def logged_in_mlflow(folder: Path) -> dict[str, Any]:
    """What MLflow has of trial 7, and the statuses of all runs."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("demo-1a2b3c4d")
    assert experiment is not None
    runs = {run.data.tags["trial"]: run for run in client.search_runs([experiment.experiment_id])}
    data, images = runs["7"].data, client.list_artifacts(runs["7"].info.run_id, "images")
    return {
        "runs": {number: run.info.status == "FINISHED" for number, run in runs.items()},
        "knobs": data.params, "metrics": data.metrics, "result": data.tags["result"],
        "images": [Path(image.path).name for image in images],
    }  # fmt: skip


HEADER, BLOCK, RECORD = 7, 1 << 15, struct.Struct("<4xHB")
FULL, LAST = 1, 4
"""Weights & Biases' file: a header, then LevelDB's log format: blocks of parts, each with length and kind."""


def wandb_records(data: bytes) -> Iterator[Any]:
    """The records of a file that waits to be sent."""
    from wandb.proto.wandb_internal_pb2 import Record

    place, record = HEADER, b""
    while place + RECORD.size <= len(data):
        left = BLOCK - place % BLOCK
        if left < RECORD.size:
            place += left
            continue
        length, kind = RECORD.unpack_from(data, place)
        place += RECORD.size + length
        record += data[place - length : place]
        if kind in (FULL, LAST):
            yield Record.FromString(record)
            record = b""


def logged_in_wandb(folder: Path) -> dict[str, Any]:
    """What the files of Weights & Biases have, which wait to be sent."""
    runs: dict[str, bool] = {}
    seen: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns):
        number = file.stem.rpartition("-")[2]
        for record in wandb_records(file.read_bytes()):
            assert not record.HasField("run") or record.run.run_group == "demo-1a2b3c4d"
            if record.HasField("exit"):
                runs[number] = record.exit.exit_code == 0
            if number == "7":
                for kind, fields in (
                    ("config", record.run.config.update), ("history", record.history.item),
                    ("summary", record.summary.update),
                ):  # fmt: skip
                    values = {one.key or ".".join(one.nested_key): json.loads(one.value_json) for one in fields}
                    seen[kind] = seen.get(kind, {}) | values
    assert (folder / next(folder.glob(f"wandb/*/files/{seen['history']['images.filenames'][0]}"))).is_file()
    return {
        "runs": runs,
        "knobs": {name: value for name, value in seen["config"].items() if not name.startswith("_")},
        "metrics": {name: seen["history"][name] for name in ("latency_s", "quality")},
        "result": seen["summary"]["result"],
        "images": [f"{caption}.png" for caption in seen["history"]["images.captions"]],
    }


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {"mlflow": logged_in_mlflow, "wandb": logged_in_wandb}


@pytest.mark.parametrize("name", TRACKERS)
def test_a_trial_is_one_run_however_often_it_is_logged(name: str, tmp_path: Path) -> None:
    pytest.importorskip(TRACKERS[name].package)
    image = tmp_path / "0000.png"
    Image.new("RGB", (8, 8)).save(image)
    there = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true",
        "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path),
    }  # fmt: skip
    subprocess.run([sys.executable, "-c", PROGRAM, name, image], check=True, cwd=tmp_path, env=os.environ | there)
    assert READERS[name](tmp_path) == {
        "runs": {"7": True, "8": False},
        "knobs": {"compile.scope": "regional", "steps": "6"},
        "metrics": {"latency_s": 0.4, "quality": 30.5},
        "result": "chosen",
        "images": ["0000.png"],
    }


def test_images_are_sent_with_the_first_log_of_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known: set[str] = set()
    sent: list[dict[str, Any]] = []

    def init(**given: Any) -> Any:
        name = given["id"]
        run = SimpleNamespace(
            resumed=name in known, log=sent.append, summary={}, finish=lambda exit_code: known.add(name)
        )
        return run

    fake = SimpleNamespace(
        init=init, Image=lambda file, caption: caption, Settings=lambda **_: None,
        setup=lambda: SimpleNamespace(settings=SimpleNamespace(mode="offline")),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    first, later = WandB("study"), WandB("study")
    for tracker in (first, first, later):
        tracker.log(TrialRun(7, {}, {"latency_s": 0.5}, {}, [tmp_path / "0000.png"]))
    assert [each.get("images") for each in sent] == [["0000"], None, None]
    known.clear()
    first.log(TrialRun(7, {}, {"latency_s": 0.5}, {}, [tmp_path / "0000.png"]))
    assert "images" not in sent[-1], "offline nobody says that a run is known"


def test_the_command_line_offers_every_tracker() -> None:
    assert tuple(TRACKERS) == arguments.TRACKERS


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_named_with_the_remedy(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tuner.tracking.trackers.find_spec", lambda _: None)
    assert cli.main(["run", "--device", "cpu", "--out", str(tmp_path / "traces"), "--log", name]) == 2
    printed = capsys.readouterr().err
    assert printed.endswith(f"tune: --log {name}: {name} is not installed; pip install {name}\n")
    assert not (tmp_path / "traces").exists(), "before anything is begun"


# ---- a tracker that does not answer --------------------------------------------------------------------------------


class Hanging(Tracker):
    """A tracker whose server stands still from a trial on until it is let go."""

    def __init__(self, study: str, hangs_at: int) -> None:
        self.hangs_at, self.hangs, self.let_go = hangs_at, Event(), Event()
        self.logged: list[int] = []

    def log(self, trial: TrialRun) -> None:
        if trial.number >= self.hangs_at:
            self.hangs.set()
            self.let_go.wait(30.0)
        self.logged.append(trial.number)


def queue_of(hangs_at: int, notes: list[str]) -> tuple[Hanging, queue.TrackingQueue]:
    tracker = Hanging("study", hangs_at)
    found = queue.TrackingQueue("mlflow", tracker, notes.append)
    for number in range(4):
        found.add(TrialRun(number, {}, {}, {}, []))
    assert tracker.hangs.wait(30.0)
    return tracker, found


@pytest.mark.parametrize("is_hurried", [False, True])
def test_a_tracker_that_hangs_is_not_waited_for_for_ever(is_hurried: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "SOON_S", 0.05)
    monkeypatch.setattr(queue, "PATIENCE_S", 0.05)
    monkeypatch.setattr(queue, "GRACE_S", 0.05)
    notes: list[str] = []
    tracker, found = queue_of(2, notes)
    found.close(is_hurried=is_hurried)
    *before, last = notes
    assert before == ([] if is_hurried else ["--log mlflow: waiting for 2 trials to be logged"])
    assert last.startswith("--log mlflow: the tracker did not answer in time, with 2 trials left to log")
    assert found.thread.daemon, "nor does the interpreter's exit wait"
    tracker.let_go.set()
    found.thread.join()
    assert tracker.logged == [0, 1, 2], "what was waiting is left"


def test_a_tracker_that_is_slow_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "SOON_S", 0.05)
    notes: list[str] = []
    tracker, found = queue_of(0, notes)
    Timer(0.1, tracker.let_go.set).start()
    found.close()
    assert tracker.logged == [0, 1, 2, 3]
    assert notes == ["--log mlflow: waiting for 4 trials to be logged"]


def test_ctrl_c_does_not_wait_for_a_tracker(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "GRACE_S", 0.05)
    tracker = Hanging("study", 0)
    bench.trackers = {"mlflow": tracker}
    with bench.study(trials=12) as found:
        monkeypatch.setattr(found, "choose", stop)
        with pytest.raises(KeyboardInterrupt):
            found.run()
    assert tracker.logged == [] and "left to log" in bench.told.notes[-1]
    tracker.let_go.set()


def stop() -> None:
    raise KeyboardInterrupt


# ---- in a study ------------------------------------------------------------------------------------------------------


class Kept(Tracker):
    """Keeps what it is told in memory; a server that goes away after so many trials."""

    def __init__(self, study: str, goes_after: int = 1000) -> None:
        self.runs: dict[int, TrialRun] = {}
        self.calls, self.goes_after = 0, goes_after

    def log(self, trial: TrialRun) -> None:
        self.calls += 1
        if self.calls > self.goes_after:
            raise ConnectionError("no route to the server\nand more")
        self.runs[trial.number] = trial


def test_every_trial_of_a_study_is_logged_and_the_choice_marked(bench: Bench) -> None:
    tracker = Kept("study")
    bench.trackers = {"mlflow": tracker}
    best = bench.run(trials=12)
    assert sorted(tracker.runs) == [outcome.number for outcome in bench.outcomes()]
    assert tracker.runs[best.chosen.trial].tags["result"] == "chosen"
    assert tracker.runs[0].tags["result"].startswith("baseline")
    assert tracker.runs[best.chosen.trial].metrics["cost_usd_per_1000_images"] == pytest.approx(
        best.chosen.cost_usd_per_1000_images
    )
    assert tracker.runs[0].knobs["attention.backend"] == "native"


def test_a_tracker_that_fails_does_not_end_the_study_and_a_later_run_logs_the_rest(bench: Bench) -> None:
    gone = Kept("study", goes_after=3)
    bench.trackers = {"mlflow": gone}
    best = bench.run(trials=12)
    assert len(gone.runs) <= 3
    assert [note for note in bench.told.notes if "--log" in note] == [
        "--log mlflow: ConnectionError: no route to the server; nothing more is logged there; the study goes on, and "
        "`tune resume` with this option logs what is missing"
    ]
    again = Kept("study")
    bench.trackers = {"mlflow": again}
    assert bench.run(trials=12) == best
    assert sorted(again.runs) == [outcome.number for outcome in bench.outcomes()]

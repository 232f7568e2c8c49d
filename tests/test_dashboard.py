"""optuna-dashboard opens study.db: knobs, both objectives by name, constraints, and images as artifacts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from PIL import Image
from stored_trials import baseline, make_request, outcome

from tuner.files import thumbnail_path
from tuner.search.request import Request
from tuner.study.store import Store

Ask = Callable[[str], bytes]


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return make_request(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "study"


@pytest.fixture
def ask(folder: Path, request_: Request) -> Ask:
    """Asks optuna-dashboard about a study of three trials: with images, with small copies of them, and rejected."""
    dashboard = pytest.importorskip("optuna_dashboard")
    from optuna.artifacts import FileSystemArtifactStore

    with Store(folder, request_) as store:
        untouched = baseline(store)
        for number, changes in enumerate([{}, {"steps": 4}]):
            values = untouched | changes
            store.enter(values)
            draw(store.paths.images(number), small=number == 1)
            store.acknowledge(outcome(number, values))
        values = untouched | {"compile.scope": "full"}
        store.enter(values)
        store.acknowledge(outcome(2, values, status="rejected"))
        app = dashboard.wsgi(store.study._storage, FileSystemArtifactStore(store.paths.artifacts))

    def ask(path: str) -> bytes:
        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        statuses: list[str] = []
        body = b"".join(app(environ | {"PATH_INFO": path}, lambda status, *_: statuses.append(status)))
        assert statuses == ["200 OK"], (path, body[:200])
        return body

    return ask


def draw(images: Path, *, small: bool) -> None:
    images.mkdir(parents=True)
    for index in range(6):
        file = images / f"{index:04}.png"
        Image.new("RGB", (8, 8), (index, 0, 0)).save(file)
        if small:
            thumbnail_path(file).parent.mkdir(exist_ok=True)
            Image.new("RGB", (4, 4), (index, 0, 0)).save(thumbnail_path(file))


def test_a_study_has_its_knobs_objectives_and_constraints(ask: Ask) -> None:
    study = json.loads(ask("/api/studies/1"))
    assert study["objective_names"] == ["cost_usd_per_1000_images", "quality"]
    assert [knob["name"] for knob in study["union_search_space"]] == [
        "batch", "compile.scope", "precision.dtype", "steps",
    ]  # fmt: skip
    _, cheaper, rejected = study["trials"]
    assert {"name": "steps", "value": "4"} in [
        {"name": value["name"], "value": value["param_external_value"]} for value in cheaper["params"]
    ]
    assert cheaper["values"] == [2.0, 20.0]
    assert rejected["state"] == "Pruned"
    assert {"key": "constraint: rejected", "value": "1.0"} in rejected["user_attrs"]
    assert {"key": "constraint: measured", "value": "0.0"} in cheaper["user_attrs"]


def test_a_trial_has_its_first_images(ask: Ask, folder: Path) -> None:
    trials = json.loads(ask("/api/studies/1"))["trials"]
    shown = [[artifact["filename"] for artifact in trial["artifacts"]] for trial in trials]
    assert list(map(sorted, shown)) == [
        ["0000.png", "0001.png", "0002.png", "0003.png"], ["0000.jpg", "0001.jpg", "0002.jpg", "0003.jpg"], [],
    ]  # fmt: skip
    artifact = trials[1]["artifacts"][0]
    assert artifact["mimetype"] == "image/jpeg"
    path = f"/artifacts/1/{trials[1]['trial_id']}/{artifact['artifact_id']}"
    assert ask(path) == thumbnail_path(folder / f"trials/0001/images/{artifact['filename']}").read_bytes()


def test_an_image_is_kept_once_though_the_run_was_killed_in_between(
    folder: Path,
    request_: Request,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from optuna.artifacts import FileSystemArtifactStore

    written = FileSystemArtifactStore.write

    def killed(store: Any, name: str, content: Any) -> None:
        if len(list((folder / "artifacts").iterdir())) == 2:
            raise KeyboardInterrupt
        written(store, name, content)

    with Store(folder, request_) as store:
        values = baseline(store)
        store.enter(values)
        draw(store.paths.images(0), small=False)
        monkeypatch.setattr(FileSystemArtifactStore, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            store.acknowledge(outcome(0, values))
    monkeypatch.undo()
    with Store(folder, request_) as store:
        assert [trial.state.name for trial in store.study.trials] == ["COMPLETE"]
    assert len(list((folder / "artifacts").iterdir())) == 4

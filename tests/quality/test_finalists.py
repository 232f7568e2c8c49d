"""What the search asks of the process that examines the finalists, with programs that stand in for it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tuner.files import StudyFolder
from tuner.records.codec import read
from tuner.records.model import Workload
from tuner.records.quality import NoiseFloor, Panel, PanelJob, QualityPolicy
from tuner.study import finalists

WORKLOAD = Workload(prompts=("a", "b"), seeds=(0, 1), height=32, width=32)
GOOD = 'open(sys.argv[2], \'w\').write(\'{"finalists": {"0": {}, "4": {}}, "unavailable_reasons": {"fid": "no weights"}}\')'  # noqa: E501


def outcome(number: int, reused_from: int | None = None) -> Any:
    return SimpleNamespace(number=number, quality=SimpleNamespace(reused_from=reused_from, noise=None))


def rounded(name: str, folder: str) -> NoiseFloor:
    return NoiseFloor(max_difference=0.1, variations={name: f"{folder}/variations/{name}"})


def study(folder: Path) -> tuple[Any, Any]:
    for trial in (0, 2):
        StudyFolder(folder).images(trial).mkdir(parents=True)
    request = SimpleNamespace(
        environment=SimpleNamespace(device="cpu"), quality=QualityPolicy(), model=SimpleNamespace(scorer="demo")
    )
    places = {"kernel": str(folder), "compiled": str(folder), "outside": f"{folder}/..", "far": ""}
    history = SimpleNamespace(
        devices=[],
        judged_workload=WORKLOAD,
        noise_floors=lambda: [rounded(name, place) for name, place in places.items()],
    )
    return SimpleNamespace(request=request, paths=StudyFolder(folder)), history


def asked_of(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Panel | None, list[str]]:
    notes: list[str] = []
    monkeypatch.setattr(finalists, "EXAMINER", (sys.executable, "-c", f"import sys; {program}"))
    store, history = study(folder)
    found = finalists.judge_finalists(store, history, [outcome(4, reused_from=2), outcome(7)], notes.append)
    return found, notes


def test_its_answer_is_the_panel_of_those_whose_images_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, notes = asked_of(GOOD, tmp_path, monkeypatch)
    assert found is not None
    assert found.unavailable_reasons == {"fid": "no weights"}
    assert notes == []
    job = read(tmp_path / "panel.job.json", PanelJob)
    assert {trial: Path(path).parent.name for trial, path in job.images.items()} == {0: "0000", 4: "0002"}
    assert job.variations == (f"{tmp_path}/variations/kernel", f"{tmp_path}/variations/compiled"), "the study's own"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("print('no such thing'); sys.exit(3)", "with code 3"),
        ("open(sys.argv[2], 'w').write('{')", "with code 0"),
        ("import os; os.kill(os.getpid(), 9)", "with code -9"),
    ],
)
def test_a_process_that_fails_costs_the_panel_and_a_note_not_the_study(
    program: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "panel.json").write_text("left by another run")
    found, notes = asked_of(program, tmp_path, monkeypatch)
    assert found is None
    (note,) = notes
    assert said in note
    assert "panel.log" in note

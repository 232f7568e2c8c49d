"""Folders in a study that no study made: not read, never removed, and no reason to stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuner import cli
from tuner.errors import BadInput
from tuner.files import numbered
from tuner.report.study_report import read_report
from tuner.search.request import read_request
from tuner.study.store import Store

FOREIGN = (
    "0007 copy", "7", "07", "007", "00007", "000007", "9" * 7, "9" * 100, "9" * 250, "-001", "+001", "1e3 ", "0x10",
    "٠٠٠٧", "²²²²", "0007.bak", "0007~", ".0007", "0007\n", "notes", "0 07", "1_00",
)  # fmt: skip
"""The names are not those of trials, or of more trials than a study can have."""


def test_only_names_that_a_study_gives_count(tmp_path: Path) -> None:
    own = {0: "0000", 7: "0007", 9999: "9999", 10000: "10000", 999999: "999999"}
    for name in (*FOREIGN, *own.values()):
        (tmp_path / name).mkdir()
    assert numbered(tmp_path) == {number: tmp_path / name for number, name in own.items()}
    assert list(numbered(tmp_path)) == sorted(own)
    assert numbered(tmp_path / "none") == {}


def test_folders_of_other_names_change_nothing_and_stay(study_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = read_report(study_copy)
    outcome = (study_copy / "trials" / "0001" / "outcome.json").read_bytes()
    for name in FOREIGN:
        for place in ("trials", "repetitions"):
            (study_copy / place / name).mkdir()
            (study_copy / place / name / "outcome.json").write_bytes(outcome)
            (study_copy / place / name / ".outcome.json.1").write_bytes(b"mine")
    before = {file for file in study_copy.rglob("*") if file.parent.name in FOREIGN}
    assert read_report(study_copy) == shown
    assert cli.main(["list", str(study_copy.parent)]) == cli.main(["show", str(study_copy)]) == 0
    with Store(study_copy, read_request(study_copy / "study.json")) as store:
        assert list(store.outcomes()) == [outcome.number for outcome in shown.outcomes]
        assert store.reserve_repetition() == len(store.repetitions(store.outcomes()))
    assert before == {file for file in study_copy.rglob("*") if file.parent.name in FOREIGN}


@pytest.mark.parametrize("number", [11, 4242, 99999, 999999])
def test_a_trial_that_the_database_does_not_know_is_one_line(study_copy: Path, number: int) -> None:
    folder = study_copy / "trials" / f"{number:04}"
    folder.mkdir()
    data = json.loads((study_copy / "trials" / "0001" / "outcome.json").read_text())
    (folder / "outcome.json").write_text(json.dumps(data | {"number": number}))
    with (
        pytest.raises(BadInput, match=rf"study\.db: trial {number} is not"),
        Store(study_copy, read_request(study_copy / "study.json")),
    ):
        pass

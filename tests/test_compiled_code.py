"""Compiled code in a study is used only if it was made there: a study from elsewhere brings none."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import pytest

from tuner.study.compiled_code import MADE, SEAL, own_cache


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    (own_cache(folder) / "kernel.py").write_text("compiled")
    return folder


def is_empty(study: Path) -> bool:
    return {file.name for file in own_cache(study).iterdir()} == {MADE, SEAL}


def test_own_code_is_kept(study: Path, tmp_path: Path) -> None:
    assert (own_cache(study) / "kernel.py").read_text() == "compiled"
    assert own_cache(study).stat().st_mode & 0o777 == 0o700
    study.rename(tmp_path / "renamed")
    assert not is_empty(tmp_path / "renamed")


def test_the_code_of_a_copy_is_removed(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "copy")
    assert is_empty(tmp_path / "copy")


def test_the_code_of_an_archive_is_removed(study: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "study.tar", "w") as archive:
        archive.add(study, "study")
    shutil.rmtree(study)
    with tarfile.open(tmp_path / "study.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    assert (study / "cache" / "kernel.py").exists()
    assert is_empty(study)


@pytest.mark.parametrize("text", ["", "0:0:0", "\xff"])
def test_code_without_the_right_seal_is_removed(study: Path, text: str) -> None:
    (study / "cache" / SEAL).write_text(text, encoding="latin-1")
    assert is_empty(study)


@pytest.mark.parametrize("name", [MADE, SEAL])
def test_code_without_a_seal_is_removed(study: Path, name: str) -> None:
    (study / "cache" / name).unlink()
    assert is_empty(study)


def test_code_that_others_can_write_is_removed(study: Path) -> None:
    (study / "cache").chmod(0o777)
    assert is_empty(study)


def test_code_of_another_user_is_removed(study: Path) -> None:
    try:
        os.chown(study / "cache" / SEAL, 12345, -1)
    except PermissionError:
        pytest.skip("only root can give a file to another user")
    assert is_empty(study)

"""A study folder that something else wrote to: one line that names the file, exit code 2, nothing else touched."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.forked_tune import Commands
from faults.harness import Tune, assert_one_line
from faults.sabotaged_tune import WORKER

from tuner import cli
from tuner.execution import launch
from tuner.records.codec import read
from tuner.records.outcome import Outcome


@pytest.fixture(scope="module")
def sound(commands: Commands, tmp_path_factory: pytest.TempPathFactory, no_pipeline: Path) -> Path:
    """A finished study."""
    tune = Tune(commands, tmp_path_factory.mktemp("sound"), no_pipeline)
    assert tune.run("--trials", "10").returncode == 0
    tune.check()
    return tune.out


@pytest.fixture
def copy(commands: Commands, sound: Path, tmp_path: Path, no_pipeline: Path) -> Iterator[Tune]:
    tune = Tune(commands, tmp_path / "out", no_pipeline)
    shutil.copytree(sound, tune.out)
    yield tune
    tune.end()


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garbage(file: Path) -> None:
    file.write_bytes(bytes(range(256)) * 40)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def harm(file: Path) -> None:
        data = json.loads(file.read_text())
        change(data)
        file.write_text(json.dumps(data))

    return harm


def text(written: str) -> Callable[[Path], None]:
    return lambda file: file.write_text(written) and None


def sql(*statements: str) -> Callable[[Path], None]:
    def harm(file: Path) -> None:
        with sqlite3.connect(file) as database:
            for statement in statements:
                assert database.execute(statement).rowcount != 0, statement
        database.close()

    return harm


DAMAGES = {
    "study.db": {
        "truncated": truncate,
        "garbage": garbage,
        "empty": empty,
        "removed": Path.unlink,
        "a value changed": sql("UPDATE trial_values SET value = 1e-9"),
        "a value infinite": sql("UPDATE trial_values SET value_type = 'INF_NEG', value = NULL"),
        "a value that is text": sql("UPDATE trial_values SET value = 'abc'"),
        "a value removed": sql("DELETE FROM trial_values WHERE trial_id = 1"),
        "a state changed": sql("UPDATE trials SET state = 'FAIL' WHERE number = 1"),
        "a state unknown": sql("UPDATE trials SET state = 'GONE' WHERE number = 1"),
        "a trial removed": sql("DELETE FROM trials WHERE number = 1"),
        "a parameter changed": sql("UPDATE trial_params SET param_value = 1 - MIN(param_value, 1)"),
        "a parameter out of range": sql("UPDATE trial_params SET param_value = 99"),
        "a parameter's choices changed": sql(
            "UPDATE trial_params SET distribution_json = replace(distribution_json, '[8, 6, 4]', '[8, 6, 5]')"
        ),
        "a distribution that is no JSON": sql("UPDATE trial_params SET distribution_json = '{'"),
        "an attribute that is no JSON": sql("UPDATE trial_user_attributes SET value_json = '{'"),
        "a latency changed": sql("UPDATE trial_user_attributes SET value_json = '1e-9' WHERE key = 'latency_s'"),
        "time that is text": sql("UPDATE study_user_attributes SET value_json = '\"x\"' WHERE key = 'spent_s'"),
        "time below zero": sql("UPDATE study_user_attributes SET value_json = '-5' WHERE key = 'spent_s'"),
        "time without end": sql("UPDATE study_user_attributes SET value_json = 'Infinity' WHERE key = 'spent_s'"),
        "time that is no number": sql("UPDATE study_user_attributes SET value_json = 'NaN' WHERE key = 'spent_s'"),
        "a refusal that is none": sql(
            "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (1, 'refused', '\"x\"')"
        ),
        "the directions changed": sql("UPDATE study_directions SET direction = 'MAXIMIZE'"),
        "a second study": sql(
            "INSERT INTO studies (study_name) VALUES ('other')", "UPDATE studies SET study_name = 'x'||study_id"
        ),
        "a table removed": sql("DROP TABLE trial_values"),
        "another version": sql(
            "UPDATE version_info SET schema_version = 999", "UPDATE alembic_version SET version_num = 'v9'"
        ),
    },
    "study.json": {
        "truncated": truncate,
        "garbage": garbage,
        "empty": empty,
        "null": text("null"),
        "an unknown key": edit(lambda data: data.update(surprise=1)),
        "a key removed": edit(lambda data: data.pop("price")),
        "a wrong type": edit(lambda data: data["model"].update(source=7)),
        "a price beyond any": edit(lambda data: data["price"].update(usd_per_hour=1e300)),
        "another model": edit(lambda data: data["model"].update(source="/elsewhere")),
    },
    "trials/0001/outcome.json": {
        "truncated": truncate,
        "garbage": garbage,
        "empty": empty,
        "a list": text("[]"),
        "NaN": lambda file: text(file.read_text().replace('"wall_s": ', '"wall_s": NaN, "x": '))(file),
        "an unknown key": edit(lambda data: data.update(surprise=1)),
        "another number": edit(lambda data: data.update(number=5)),
        "an unknown knob": edit(lambda data: data["values"].update(nonsense=1)),
        "a knob removed": edit(lambda data: data["values"].pop("batch")),
        "a value of a wrong type": edit(lambda data: data["values"].update(steps="8")),
        "a load time below zero": edit(lambda data: data["build"].update(load_s=-1)),
        "more images than any machine makes": edit(lambda data: data["timing"].update(images_per_s=1e300)),
        "a score beyond any metric": edit(lambda data: data["quality"].update(mean=-1e308)),
        "an interval that does not hold its value": edit(lambda data: data["timing"]["latency_s"].update(high=0)),
        "no timing": edit(lambda data: data.update(timing=None)),
        "removed": Path.unlink,
    },
    "repetitions/0000/outcome.json": {
        "truncated": truncate,
        "garbage": garbage,
    },
}


@pytest.mark.parametrize(
    ("name", "harm"),
    [pytest.param(name, harm, id=f"{name}: {what}") for name, kinds in DAMAGES.items() for what, harm in kinds.items()],
)
def test_damage_is_named_in_one_line(
    copy: Tune, name: str, harm: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = copy.folder / name
    before = copy.acknowledged()
    before.pop(file, None)
    harm(file)
    monkeypatch.setattr(launch, "WORKER", WORKER)
    for variable, value in copy.environment.items():
        monkeypatch.setenv(variable, value)
    code = cli.main(copy.arguments("--trials", "12"))
    said = capsys.readouterr()
    assert_one_line(subprocess.CompletedProcess((), code, said.out, said.err), 2, str(file))
    assert copy.left() == []
    assert before.items() <= copy.acknowledged().items()


def half_as_long(data: dict[str, Any]) -> None:
    """Halve every figure that follows from the latency, so that nothing in the file contradicts the others."""
    timing = data["timing"]
    timing["latency_s"] = {name: value / 2 for name, value in timing["latency_s"].items()}
    timing["images_per_s"] *= 2
    data["cost_usd_per_1000_images"] /= 2


def test_a_disagreement_about_an_acknowledged_outcome_names_the_database(copy: Tune) -> None:
    repeated = {read(file, Outcome).number for file in copy.folder.glob("repetitions/*/outcome.json")}
    number = next(number for number in copy.outcomes() if number not in repeated)
    edit(half_as_long)(copy.folder / "trials" / f"{number:04}" / "outcome.json")
    assert_one_line(copy.run("--trials", "12"), 2, "study.db", f"trial {number}", "outcome.json")


def test_a_file_in_the_place_of_a_folder(copy: Tune) -> None:
    shutil.rmtree(copy.folder / "trials")
    (copy.folder / "trials").write_text("")
    assert_one_line(copy.run(), 2, str(copy.folder / "trials"))


def test_what_a_person_put_into_the_folder_stays(copy: Tune) -> None:
    (copy.folder / "trials" / "notes").mkdir()
    (copy.folder / "trials" / "notes" / "mine.txt").write_text("mine")
    (copy.folder / "trials" / "0001" / "mine.txt").write_text("mine")
    assert copy.run("--trials", "10").returncode == 0
    assert (copy.folder / "trials" / "notes" / "mine.txt").exists()
    assert (copy.folder / "trials" / "0001" / "mine.txt").exists()
    copy.check()

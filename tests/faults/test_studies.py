"""`tune list`, `tune show` and `tune resume`: what a study's folder alone is good for."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from faults.forked_tune import Commands
from faults.harness import Tune, wait_until

from tuner import cli
from tuner.commands import show
from tuner.files import StudyFolder
from tuner.records.codec import encode, read
from tuner.records.outcome import Outcome
from tuner.report.renderers import RENDERERS
from tuner.report.studies import StudyList, list_studies, read_limits, read_state, summarize
from tuner.result.config import read_config
from tuner.result.prices import Price
from tuner.search.request import Request
from tuner.study.database import open_study


@pytest.fixture(scope="module")
def finished(commands: Commands, tmp_path_factory: pytest.TempPathFactory, no_pipeline: Path) -> Iterator[Tune]:
    """A study that came to its end."""
    tune = Tune(commands, tmp_path_factory.mktemp("finished"), no_pipeline)
    done = tune.run("--trials", "8")
    assert done.returncode == 0, done.stderr
    yield tune
    tune.end()


def run(*arguments: str) -> int:
    return cli.main([*arguments])


def test_an_interrupted_study_goes_on_without_its_options(tune: Tune) -> None:
    process = tune.start("--trials", "12")
    wait_until(lambda: len(tune.outcomes()) >= 3)
    assert summarize(tune.folder).state == "running"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    before = tune.acknowledged()
    assert summarize(tune.folder).state == "interrupted"
    limits = read_limits(tune.folder / "study.db", "limits")
    assert limits is not None
    assert (limits.budget_s, limits.max_trials) == (600.0, 12)
    done = tune.command("resume", str(tune.folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert before.items() <= tune.acknowledged().items()
    assert len(tune.outcomes()) == 12
    assert summarize(tune.folder).state == "finished"
    tune.check()


def test_a_finished_study_takes_more_trials(tune: Tune) -> None:
    assert tune.run("--trials", "3").returncode == 0
    assert "this study is finished" in tune.command("resume", "study", "--out", str(tune.out)).stdout
    assert tune.command("resume", "--out", str(tune.out), "--trials", "6").returncode == 0
    assert len(tune.outcomes()) == 6
    tune.check()


def test_another_price_scales_every_cost_of_a_study(
    finished: Tune, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = finished.outcomes()
    price = read(copy / "study.json", Request).price.usd_per_hour
    assert run("resume", str(copy), "--price", str(3 * price)) == 0, capsys.readouterr().err
    assert read(copy / "study.json", Request).price == Price(usd_per_hour=3 * price, source="--price")
    told = {trial.number: trial.values for trial in open_study(copy).trials}
    for number, outcome in before.items():
        now = read(copy / "trials" / f"{number:04}" / "outcome.json", Outcome)
        assert now.cost_usd_per_1000_images == pytest.approx(3 * (outcome.cost_usd_per_1000_images or 0))
        assert outcome.cost_usd_per_1000_images and told[number][0] > 2 * outcome.cost_usd_per_1000_images
    assert f"{3 * price:.2f} per hour" in capsys.readouterr().out
    assert read_config(copy / "best_config.json").price.source == "--price"
    assert run("show", str(copy)) == 0


def test_a_study_goes_on_under_another_name(
    commands: Commands, finished: Tune, tmp_path: Path, no_pipeline: Path
) -> None:
    tune = Tune(commands, tmp_path, no_pipeline)
    shutil.copytree(finished.folder, tmp_path / "renamed")
    done = tune.command("resume", str(tmp_path / "renamed"), "--trials", "9")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "renamed").glob("trials/*/outcome.json"))) == 9


@pytest.fixture
def copy(finished: Tune, tmp_path: Path) -> Path:
    shutil.copytree(finished.folder, tmp_path / "copied" / "study")
    return tmp_path / "copied" / "study"


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def harm(file: Path) -> None:
        data = json.loads(file.read_text())
        change(data)
        file.write_text(json.dumps(data))

    return harm


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data["environment"].update(device_name="another CPU"), "environment.device_name"),
        (lambda data: data["environment"]["libraries"].update(torch="1.0"), "environment.libraries.torch"),
        (lambda data: data["environment"].update(cpu_count=999), "environment.cpu_count"),
        (lambda data: data["model"].update(source="/gone"), "/gone: no such folder"),
        (lambda data: data["model"].update(pipeline_class="SanaPipeline"), "is another model now"),
        (lambda data: data.pop("price"), "price"),
    ],
)
def test_a_study_that_cannot_go_on_here_is_one_line(
    copy: Path, change: Callable[[dict[str, Any]], object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edited(change)(copy / "study.json")
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    assert run("resume", str(copy)) == 2
    error = capsys.readouterr().err
    assert error.startswith("tune: ") and error.count("\n") == 1
    assert said in error
    assert before == {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}


def test_a_list_has_every_study_below_a_folder(
    finished: Tune, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished.folder, tmp_path / "deep" / "er" / "other")
    (tmp_path / "deep" / "er" / "other" / "study.json").write_text("{")
    (tmp_path / "elsewhere").symlink_to(finished.folder)
    assert run("list", str(tmp_path), "--json") == 0
    damaged, sound = sorted(msgspec.json.decode(capsys.readouterr().out, type=StudyList).studies, key=lambda s: s.state)
    assert (damaged.state, sound.state, sound.trials) == ("damaged", "finished", len(finished.outcomes()))
    assert damaged.error is not None
    assert "study.json" in damaged.error
    assert sound.folder == str(copy)
    assert run("list", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("copied/study", "deep/er/other", "finished", "damaged"))


def test_a_list_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", str(tmp_path)) == 0
    assert "no study in there" in " ".join(capsys.readouterr().out.split())
    assert run("list", "--out", str(tmp_path / "none")) == 2
    assert capsys.readouterr().err == f"tune: {tmp_path / 'none'}: no such folder\n"


def test_the_formats_are_those_of_the_renderers() -> None:
    assert set(show.FORMATS) == set(RENDERERS)


@pytest.mark.parametrize("name", show.FORMATS)
def test_a_copied_study_is_shown(copy: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", str(copy / "best_config.json"), "--format", name) == 0
    assert "tune resume" not in capsys.readouterr().out


def test_what_is_not_at_its_end_says_so(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "study.db").unlink()
    assert run("show", str(copy)) == 0
    assert f"tune resume{copy}" in "".join(capsys.readouterr().out.split()).replace("tuneresume", "tune resume")
    (copy / "best_config.json").unlink()
    assert run("show", str(copy)) == 2
    assert "no result so far" in capsys.readouterr().err


def test_looking_changes_nothing(copy: Path) -> None:
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in copy.rglob("*") if file.is_file()}
    assert run("list", str(copy.parent)) == run("show", str(copy)) == 0
    assert before == {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in copy.rglob("*") if file.is_file()}


def test_a_lock_that_is_no_file_is_not_waited_for(copy: Path) -> None:
    (copy / "lock").unlink(missing_ok=True)
    os.mkfifo(copy / "lock")
    assert read_state(StudyFolder(copy)) == "finished"


def test_the_list_is_a_record(finished: Tune) -> None:
    listed = list_studies(finished.out)
    assert msgspec.json.decode(encode(listed), type=StudyList) == listed
    assert read(finished.folder / "study.json", Request).model.source == listed.studies[0].model

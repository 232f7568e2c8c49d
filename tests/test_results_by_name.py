"""What `export`, `verify`, `package` and `cost` take for a result: a file, a folder, a name, or the newest study."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import tuner
from tuner import cli
from tuner.errors import BadInput
from tuner.records import study_lock
from tuner.records.codec import encode_pretty, read
from tuner.records.outcome import Failure, Outcome
from tuner.report.studies import find_result
from tuner.result.config import read_best

COMMANDS = {
    "cost": (), "export": ("--to", "python"), "package": ("--out", "served"), "verify": (),
}  # fmt: skip
"""The commands that take a result, with the options that they need."""


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make_study(name: str, result: str | None) -> Path:
    folder = Path("traces") / name
    (folder / "trials").mkdir(parents=True)
    (folder / "study.json").write_text("{}")
    if result is not None:
        (folder / "best_config.json").write_text(result)
    return folder


@pytest.mark.parametrize("name", ["seen", "traces/seen", "traces/seen/", "traces/seen/best_config.json", None])
def test_a_result_is_found_by_file_folder_and_name(name: str | None) -> None:
    folder = make_study("seen", "{}")
    assert find_result(name, Path("traces")) == folder / "best_config.json"


def test_a_result_without_its_study_is_found_by_its_folder() -> None:
    Path("best_config.json").write_text("{}")
    assert find_result(".", Path("traces")) == Path("best_config.json")


WRONG = {
    "nosuch": "tune: nosuch: no such study; `tune list --out traces` lists the studies",
    "nosuch.json": "tune: nosuch.json: no such file; name a best_config.json, or the folder or the name of a study",
    "empty": "tune: empty: this folder has no best_config.json; `tune list --out traces` lists the studies",
    "begun": "tune: traces/begun/best_config.json: not there yet: no result so far; `tune resume traces/begun` goes on",
    "other.json": "tune: other.json: format is missing: it is no result of `tune run`; name a best_config.json, "
    "which `tune run` writes into the folder of its study",
    "list.json": "tune: list.json: it is no result of `tune run`; name a best_config.json",
    "study.json": "tune: study.json: format: diffusion-tuner-study/2: it is no result of `tune run`; name a best_",
    "newer.json": "tune: newer.json was written by diffusion-tuner 9.0, whose fields have other names; run",
    "image.png": "tune: image.png: not JSON: ",
    "cut.json": "tune: cut.json: not JSON: it ends too early; name a best_config.json",
    "field.json": "tune: field.json: modle: unknown field",
}
"""What is given, and how the line begins that is printed."""


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("given", WRONG)
def test_what_is_no_result_gives_one_line(given: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_study("begun", None)
    Path("empty").mkdir()
    Path("other.json").write_text('{"a": 1}')
    Path("list.json").write_text("[1]")
    Path("study.json").write_text('{"format": "diffusion-tuner-study/2"}')
    Path("newer.json").write_text('{"format": "diffusion-tuner/3", "tuner_version": "9.0"}')
    Path("image.png").write_bytes(b"\x89PNG")
    Path("cut.json").write_text('{"format": "diffu')
    Path("field.json").write_text('{"format": "diffusion-tuner/2", "modle": {}}')
    assert cli.main([command, given, *COMMANDS[command]]) == BadInput.exit_code
    printed = capsys.readouterr()
    assert printed.err.startswith(WRONG[given])
    assert printed.err.count("\n") == 1
    assert not printed.out
    assert not Path("served").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_newest_study_is_meant_if_none_is_given(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_study("seen", "[1]")
    assert cli.main([command, *COMMANDS[command]]) == BadInput.exit_code
    assert capsys.readouterr().err.startswith("tune: traces/seen/best_config.json: it is no result")


@pytest.mark.parametrize("word", ["md", "markdown"])
@pytest.mark.parametrize("command", ["show", "report", "compare"])
def test_markdown_has_either_name(command: str, word: str) -> None:
    assert cli.make_parser().parse_args([command, "seen", "--format", word]).format == "md"


@pytest.mark.parametrize(
    "line", ["show --json --format csv", "report --format md --json", "compare a --json --format csv"]
)
def test_json_excludes_another_format(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(line.split())
    printed = capsys.readouterr().err
    assert end.value.code == BadInput.exit_code
    assert printed.count("\n") == 1 and "not allowed with argument" in printed


# ---- a trial that cannot be taken ------------------------------------------------------------------------------------


def test_why_a_trial_cannot_be_taken_is_said_and_those_that_can_are_listed(recorded_study: Path) -> None:
    folder = Path("study")
    shutil.copytree(recorded_study, folder, ignore=shutil.ignore_patterns("cache"))
    best = read_best(folder / "best_config.json")
    known = {point.trial for point in (*best.front, best.baseline, best.chosen)}
    number = next(number for number in range(10) if number not in known)
    file = folder / "trials" / f"{number:04}" / "outcome.json"
    outcome, reasons = read(file, Outcome), {}
    assert outcome.timing is not None
    late = msgspec.structs.replace(outcome.timing, within_target=0.1)
    failure = Failure(kind="crash", stage="load", message="x")
    for reason, fields in {
        "it is not on the front, as another trial is as cheap and scores as high": {},
        "it misses the latency target": {"timing": late},
        "its images were not judged": {"quality": None},
        "it failed": {"status": "failed", "failure": failure},
    }.items():
        file.write_bytes(encode_pretty(msgspec.structs.replace(outcome, **fields)))
        with pytest.raises(BadInput) as refusal:
            tuner.load(folder, trial=number)
        reasons[reason] = str(refusal.value)
    assert all(f"best_config.json: trial {number}: {reason}; take 0 (" in line for reason, line in reasons.items())
    line = reasons["it failed"]
    assert re.search(r"take 0 \([\d.]+ m?s, untouched\) or \d+ \(.*steps=\d+, [\d.]+ m?s", line) and ", chosen)" in line
    with pytest.raises(BadInput, match="trial 99: the study has recorded no such trial; take 0"):
        tuner.load(folder, trial=99)


# ---- a study that another process runs ------------------------------------------------------------------------------

READERS = {
    "show": (), "report": ("--format", "md"), "cost": (), "export": ("--to", "python"), "package": ("--out", "served"),
    "compare": ("study",),
}  # fmt: skip
WRITERS = {"resume": "wait until it ends, or stop it with Ctrl-C there", "verify": "each would disturb what the other"}
RUNNING = (
    rf"traces/study: another process is running this study \(pid {os.getpid()}, "
    r"since 20\d\d-\d\d-\d\d \d\d:\d\d\)"
)


@pytest.fixture
def running(recorded_study: Path) -> Iterator[Path]:
    """The newest study, which this process runs, with the name `study`."""
    folder = Path("traces") / "study"
    shutil.copytree(recorded_study, folder, ignore=shutil.ignore_patterns("cache"))
    with study_lock.lock_study(folder / "lock"):
        yield folder


@pytest.mark.parametrize("command", READERS)
def test_what_only_reads_takes_a_study_that_runs_and_says_so(
    command: str, running: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, *READERS[command]]) == 0
    printed = capsys.readouterr()
    assert re.search(f"{RUNNING}: this is what is known by now", printed.err) and printed.out


@pytest.mark.parametrize("command", WRITERS)
def test_what_writes_or_measures_refuses_a_study_that_runs(
    command: str, running: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(running.rglob("*"))
    assert cli.main([command]) == BadInput.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(RUNNING, line) and WRITERS[command] in line
    assert sorted(running.rglob("*")) == before


def test_a_holder_that_is_not_seen_is_still_one(running: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_lock, "LOCKS", Path("nowhere"))
    assert str(study_lock.holder(running / "lock")) == "another process is running this study"
    assert study_lock.holder(running / "nosuch") is None

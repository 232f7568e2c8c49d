"""The command line: it starts quickly, and every error is one line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tuner import cli
from tuner.commands import arguments, run
from tuner.errors import BadInput, StorageFull, StudyFailed
from tuner.records.outcome import Limits

INDEX = '{"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}'
SMALL = """
pipelines: [FluxPipeline]
workload: {prompts: [a], height: 32, width: 32}
quality: {tolerance: 1}
knobs: {steps: [2, 1]}
"""


def tune(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a new process, without a GPU and without the hub."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tuner", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def make_mistakes(folder: Path) -> Path:
    """Put things into a folder that are almost right."""
    (folder / "empty").mkdir()
    code = '{"_class_name": "os.system"}'
    for name, index in (("model", INDEX), ("broken", "{"), ("nameless", "{}"), ("code", code)):
        (folder / name).mkdir()
        (folder / name / "model_index.json").write_text(index)
    (folder / "small.yaml").write_text(SMALL)
    (folder / "broken.yaml").write_text("knobs: [1, 2")
    (folder / "unknown.yaml").write_text(SMALL.replace("steps", "stepps"))
    (folder / "typed.yaml").write_text(SMALL.replace("[2, 1]", "[2, one]"))
    (folder / "other.yaml").write_text(SMALL.replace("FluxPipeline", "SanaPipeline"))
    (folder / "file").write_text("not a folder")
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with things that are almost right."""
    return make_mistakes(tmp_path)


WRONG = [
    ((), "COMMAND"),
    (("rum",), "rum"),
    (("run", "--bogus"), "--bogus"),
    (("run", "model", "another"), "another"),
    (("run", "--device", "tpu"), "tpu"),
    (("run", "--budget", "soon"), "soon"),
    (("run", "--budget", "0"), "--budget"),
    (("run", "--budget", "9" * 400), "--budget"),
    (("run", "--budget", "-5m"), "--budget"),
    (("run", "--latency-target", "fast"), "--latency-target"),
    (("run", "--latency-target", "0s"), "--latency-target"),
    (("run", "--trials", "0"), "--trials"),
    (("run", "--trials", "2.5"), "--trials"),
    (("run", "--trials", "9" * 5000), "--trials"),
    (("run", "--price", "-1"), "--price"),
    (("run", "--price", "nan"), "--price"),
    (("run", "--price", "0.0000009"), "--price"),
    (("run", "--price", f"0.{'0' * 319}1"), "--price"),
    (("run", "--price", "9" * 400), "--price"),
    (("run", "--price"), "--price"),
    (("run", "nowhere"), "nowhere"),
    (("run", "./nowhere/x"), "nowhere"),
    (("run", "a\nb"), "no such folder"),
    (("run", "a" * 400), "no such folder"),
    (("run", "empty"), "model_index.json"),
    (("run", "broken"), "model_index.json"),
    (("run", "nameless"), "_class_name"),
    (("run", "code"), "_class_name"),
    (("run", "file"), "file"),
    (("run", "model", "--revision", "abc"), "--revision"),
    (("run", "model", "--device", "cuda"), "--device cuda"),
    (("run", "model", "--space", "nowhere.yaml"), "nowhere.yaml"),
    (("run", "model", "--space", "a" * 400), "no such space"),
    (("run", "model", "--space", "empty"), "empty"),
    (("run", "model", "--space", "broken.yaml"), "broken.yaml:1: not YAML"),
    (("run", "model", "--space", "unknown.yaml"), "knobs.stepps: unknown knob"),
    (("run", "model", "--space", "typed.yaml"), "knobs.steps: one must be"),
    (("run", "model", "--space", "other.yaml"), "not for FluxPipeline"),
    (("run", "model", "--scorer", "nowhere"), "--scorer"),
    (("run", "model", "--scorer", "empty"), "--scorer"),
    (("run", "model", "--space", "small.yaml", "--study", "../up"), "--study"),
    (("run", "model", "--space", "small.yaml", "--study", ""), "--study"),
    (("run", "--out", "file"), "file"),
    (("run", "--out", "/proc/nothing"), "/proc/nothing"),
]


@pytest.mark.parametrize(("arguments", "names"), WRONG, ids=[" ".join(arguments)[:40] for arguments, _ in WRONG])
def test_invalid_arguments_give_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    here: Path,
    arguments: tuple[str, ...],
    names: str,
) -> None:
    monkeypatch.chdir(here)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    assert exit_code(arguments) == 2
    printed = capsys.readouterr()
    assert_one_line(printed.out, printed.err, names)
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before, "nothing was written or lost"


@pytest.mark.parametrize(
    ("arguments", "names"),
    [(("rum",), "rum"), (("run", "a\nb"), "no such folder"), (("run", "owner/name"), "owner/name")],
)
def test_a_process_says_the_same_and_ends_soon(here: Path, arguments: tuple[str, ...], names: str) -> None:
    began = time.monotonic()
    done = tune(*arguments, cwd=here)
    assert time.monotonic() - began < 5
    assert done.returncode == 2
    assert_one_line(done.stdout, done.stderr, names)


def exit_code(arguments: tuple[str, ...]) -> int:
    """Run the command in this process; argparse ends it by SystemExit."""
    try:
        return cli.main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)


def assert_one_line(out: str, error: str, names: str) -> None:
    assert len(error.splitlines()) == 1, error
    assert error.startswith("tune")
    assert names in error
    assert "Traceback" not in error
    assert out == ""


def test_help_takes_less_than_half_a_second(tmp_path: Path) -> None:
    """Of a core's time: how long it takes beside other work says nothing of the command."""
    before = os.times()
    done = tune("--help", cwd=tmp_path)
    after = os.times()
    assert done.returncode == 0
    assert "run" in done.stdout
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.5


def test_help_and_the_page_say_what_the_demos_scorer_is_good_for(tmp_path: Path) -> None:
    page = Path(__file__).parents[1] / "docs" / "quality.md"
    for text in (tune("run", "--help", cwd=tmp_path).stdout, page.read_text()):
        words = " ".join(text.split())
        assert "scorer of the demo pipeline that comes with the package; it needs no network" in words


def test_help_names_every_option(tmp_path: Path) -> None:
    text = tune("run", "--help", cwd=tmp_path).stdout
    for option in ("space", "scorer", "device", "budget", "trials", "price", "out", "study", "revision"):
        assert f"--{option} " in text


def test_help_fits_into_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = cli.make_parser()
    texts = {"": parser.format_help(), **{name: each.format_help() for name, each in parser.commands.items()}}
    assert len(texts) == 1 + len(cli.COMMANDS)
    assert [(name, line) for name, text in texts.items() for line in text.splitlines() if len(line) > 80] == []


def test_the_installed_command_is_this_one(tmp_path: Path) -> None:
    command = Path(sys.executable).parent / "tune"
    assert command.is_file()
    done = subprocess.run([str(command), "rum"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == tune("rum", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("text", "expected"), [
        ("90s", 90), ("20m", 1200), ("2h", 7200), ("1.5m", 90), ("0.5s", 0.5), (".5s", 0.5),
        ("300ms", 0.3), ("1h30m", 5400), ("11m30s", 690),
    ],
)  # fmt: skip
def test_times(text: str, expected: float) -> None:
    assert arguments.seconds(text) == expected


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BadInput("a\nb"), 2, "tune: a b"),
        (StorageFull("full"), 2, "tune: full"),
        (StudyFailed("x"), 1, "tune: x"),
        (PermissionError(13, "no", "f"), 2, "tune: f: no"),
        (OSError(24, "Too many open files"), 2, "tune: [Errno 24] Too many open files"),
        (OSError("cannot\nread"), 2, "tune: cannot read"),
        (MemoryError(), 2, "tune: out of memory"),
    ],
)
def test_every_failure_has_its_exit_code_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int, line: str
) -> None:
    def fail(options: object) -> int:
        raise error

    monkeypatch.setattr(run, "run", fail)
    assert cli.main(["run"]) == code
    assert capsys.readouterr().err.splitlines() == [line]


def test_ctrl_c_outside_of_a_study_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", interrupt)
    assert cli.main(["run"]) == 130
    assert capsys.readouterr().err == "tune: interrupted\n"


@pytest.mark.parametrize(
    ("name", "model", "expected"),
    [
        (None, "/models/My Flux.1 (dev)", "my-flux-1-dev-01234567"),
        (None, "black-forest-labs/FLUX.1-dev", "flux-1-dev-01234567"),
        (None, "demo", "demo-01234567"),
        ("mine_2.b", "demo", "mine_2.b"),
    ],
)
def test_a_study_is_named_after_its_model(name: str | None, model: str, expected: str) -> None:
    assert run.study_name(name, model, "0123456789ab") == expected


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/x", "-x", "a b", "a\n", ".hidden"])
def test_a_study_name_cannot_leave_the_folder_of_studies(name: str) -> None:
    with pytest.raises(BadInput, match="--study"):
        run.study_name(name, "demo", "0123456789ab")


def test_a_latency_target_is_a_field_of_the_workload() -> None:
    given = cli.make_parser().parse_args(["run", "--latency-target", "2s", "--set", "workload.height=512"])
    assert run.space_settings(given) == ["workload.height=512", "workload.latency_target_s=2.0"]
    assert run.space_settings(cli.make_parser().parse_args(["run", "--latency-target", "1.5m"])) == [
        "workload.latency_target_s=90.0"
    ]
    assert run.space_settings(cli.make_parser().parse_args(["run"])) == []


@pytest.mark.parametrize(
    ("source", "budget_s", "expected_s"), [("demo", None, 330.0), ("demo", 60.0, 60.0), ("/other", None, None)]
)
def test_only_the_demo_has_a_budget_before_a_call_was_timed(
    source: str, budget_s: float | None, expected_s: float | None
) -> None:
    request: Any = SimpleNamespace(model=SimpleNamespace(source=source))
    limits = Limits(budget_s=budget_s, max_trials=7)
    assert run.with_demo_budget(limits, request) == Limits(budget_s=expected_s, max_trials=7)

"""What commands tell, and in what form: --json, --quiet, --verbose, completion in shells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tuner import cli
from tuner.commands.completion import SHELLS
from tuner.commands.progress import Amount, make_progress
from tuner.commands.run import report_study

WITHOUT_JSON = {"board", "completion", "export"}
"""What prints a script, a file of another program, or serves."""


def test_every_command_that_tells_something_tells_it_as_json() -> None:
    parser = cli.make_parser()
    has_json = {name for name, each in parser.commands.items() if "--json" in each._option_string_actions}
    assert set(parser.commands) - has_json == WITHOUT_JSON


@pytest.mark.parametrize("command", ["show", "report", "advise", "compare"])
def test_json_is_short_for_its_format(command: str) -> None:
    options = cli.make_parser().parse_args([command, "x", "--json"])
    assert options.format == "json"
    assert cli.make_parser().parse_args([command, "x"]).format != "json"


@pytest.mark.parametrize("command", ["show", "report"])
def test_a_study_is_printed_as_json(study_copy: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, str(study_copy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(study_copy)


def test_a_run_ends_with_its_report_as_json(study_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_study(study_copy, as_json=True)
    out, error = capsys.readouterr()
    assert json.loads(out)["best"]["chosen"] and "report.html" in error


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("normal", False)), (["--quiet"], ("quiet", False)), (["--verbose", "--json"], ("verbose", True)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["run", "resume"])
def test_how_much_a_study_tells(command: str, options: list[str], expected: tuple[str, bool]) -> None:
    given = cli.make_parser().parse_args([command, *options])
    assert (given.amount, given.json) == expected


def told(amount: Amount, as_json: bool, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """What a display writes of a trial with a stage that takes no time, and of a long refusal."""
    shown = make_progress(amount, as_json, {})
    shown.trial_started(1, "search", {"steps": 4}, 1)
    shown.stage(1, "load", None)
    shown.stage(1, "compile", None)
    shown.closed()
    out, error = capsys.readouterr()
    return out, error


def test_quiet_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert told("quiet", False, capsys) == ("", "")


def test_verbose_has_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    normal, verbose = told("normal", False, capsys)[0], told("verbose", False, capsys)[0]
    assert " took " not in normal and "starting took 0.0 s" in verbose and "compiling took" in verbose


def test_beside_json_progress_is_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    out, error = told("normal", True, capsys)
    assert out == "" and "trial 1 (search) started" in error


# ---- completion -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=SHELLS)
def script(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> str:
    pytest.importorskip("shtab")
    assert cli.main(["completion", request.param]) == 0
    return capsys.readouterr().out


def test_a_script_has_every_command_and_option(script: str) -> None:
    parser = cli.make_parser()
    for name, command in parser.commands.items():
        assert name in script
        assert all(option.strip("-") in script for option in command._option_string_actions)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tune", "comp"], {"compare", "completion"}),
        (["tune", "show", "--js"], {"--json"}),
        (["tune", "export", "x", "--to", ""], {"python", "diffusers", "cache-dit", "sglang", "vllm-omni"}),
        (["tune", "verify", ""], {"best_config.json"}),
    ],
)
def test_bash_completes(
    tmp_path: Path, words: list[str], expected: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("shtab")
    assert cli.main(["completion", "bash"]) == 0
    (tmp_path / "best_config.json").touch()
    asked = " ".join(f"'{word}'" for word in words)
    code = f"{capsys.readouterr().out}\nCOMP_WORDS=({asked}); COMP_CWORD={len(words) - 1}; _shtab_tune; "
    code += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=20)
    assert set(done.stdout.split()) == expected, done.stderr


def test_without_the_library_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["completion", "bash"]) == 2
    assert capsys.readouterr().err == "tune: tune completion: shtab is not installed; pip install shtab\n"


def test_another_shell_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["completion", "tcsh"])
    assert capsys.readouterr().err.count("\n") == 1

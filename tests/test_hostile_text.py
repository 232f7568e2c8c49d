"""Text from a study folder, a trace or an argument never steers the terminal, whatever command shows it."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tuner import cli
from tuner.records.codec import encode_pretty, read, read_json
from tuner.records.outcome import Failure, Limits, Outcome
from tuner.records.text import visible, visible_json
from tuner.report.console import make_console
from tuner.report.live import LiveDisplay
from tuner.report.plain import PlainDisplay
from tuner.study.attributes import reason

HOSTILE = (
    "\x1b[31mred\x1b[2J\x1b]8;;http://evil\x07link\x1b]8;;\x1b\\\x1b]0;title\x07\x1bc\rover\x08\x7f\x9b31m\x9d"
    "\u202egnp.exe\u2066\u200f\u2028\u00ad\U000e0041[bold]b[/bold][link=x]y[/link]\n\ttail"
)
TEXTS = (
    "source", "tuner_version", "device_name", "driver", "platform", "cpp_compiler", "recipe", "message", "stage",
    "operator", "reason", "flags", "quality_flags", "unavailable_reasons", "prompts", "title", "unit", "revision",
)  # fmt: skip
"""Fields of any text. The same fields of all files get the same addition, so that the files still agree."""


def poisoned(data: Any, name: str = "") -> Any:
    """The data with control characters in every field of any text."""
    if isinstance(data, dict):
        return {key: poisoned(value, key) for key, value in data.items()}
    if isinstance(data, list):
        return [poisoned(value, name) for value in data]
    return data + HOSTILE if isinstance(data, str) and name in TEXTS else data


def steering(text: str) -> str:
    """The characters of an output that a terminal may obey."""
    return "".join(char for char in text if not char.isprintable() and char != "\n")


@pytest.fixture(scope="module")
def poisoned_study(recorded_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = Path(
        shutil.copytree(recorded_study, tmp_path_factory.mktemp("poisoned") / "bad\x1b[31m\u202e\n[b]" / "study")
    )
    for file in [study / "study.json", study / "best_config.json", *study.glob("*/*/outcome.json")]:
        file.write_text(json.dumps(poisoned(json.loads(file.read_text()))))
    with sqlite3.connect(study / "study.db") as database:
        ((row, refused),) = database.execute(
            "SELECT trial_user_attribute_id, value_json FROM trial_user_attributes WHERE key = 'refused'"
        ).fetchall()
        changed = json.dumps(json.dumps(poisoned(json.loads(json.loads(refused)))))
        database.execute(
            "UPDATE trial_user_attributes SET value_json = ? WHERE trial_user_attribute_id = ?", (changed, row)
        )
    database.close()
    return study


COMMANDS: dict[str, Callable[[Path], tuple[str, ...]]] = {
    "show": lambda study: ("show", str(study)),
    "show markdown": lambda study: ("show", str(study), "--format", "markdown"),
    "show json": lambda study: ("show", str(study), "--format", "json"),
    "show html": lambda study: ("show", str(study), "--format", "html"),
    "show none": lambda study: ("show", str(study / HOSTILE[:40])),
    "list": lambda study: ("list", str(study.parent.parent)),
    "list json": lambda study: ("list", str(study.parent.parent), "--json"),
    "cost": lambda study: ("cost", str(study)),
    "cost json": lambda study: ("cost", str(study), "--json"),
    "cost provider": lambda study: ("cost", str(study), "--provider", HOSTILE),
    "resume": lambda study: ("resume", str(study)),
    "trace": lambda study: ("trace", str(study.parent / "x.json")),
    "trace json": lambda study: ("trace", str(study.parent / "x.json"), "--json"),
    "knobs": lambda _: ("knobs", HOSTILE),
    "run": lambda _: ("run", HOSTILE),
    "run space": lambda _: ("run", "--space", HOSTILE),
    "run set": lambda _: ("run", "--set", f"{HOSTILE}=1"),
    "run value": lambda _: ("run", "--set", f"compile.scope={HOSTILE}"),
    "run metric": lambda _: ("run", "--metric", f"fid={HOSTILE}"),
    "run quality": lambda _: ("run", "--quality", f"{HOSTILE}:f"),
    "command": lambda _: (HOSTILE,),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_passes_it_on(name: str, poisoned_study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    event = {"ph": "X", "cat": "cpu_op", "name": f"aten::item{HOSTILE}", "ts": 1, "dur": 5, "pid": 1, "tid": 1}
    mark = event | {"cat": "user_annotation", "name": "ProfilerStep#1", "dur": 50}
    (poisoned_study.parent / "x.json").write_text(json.dumps({"traceEvents": [mark, event]}))
    try:
        code = cli.main(COMMANDS[name](poisoned_study))
    except SystemExit as ended:
        code = int(ended.code or 0)
    said = capsys.readouterr()
    assert not steering(said.out + said.err)
    assert "Traceback" not in said.err
    assert code == 0 or len(said.err.splitlines()) == 1 or name.startswith("trace")
    if name in ("show", "show markdown", "show json", "show html", "list", "cost", "cost json"):
        assert (code, said.err) == (0, "")
        assert "link=x" in said.out or name in ("list", "cost")


def test_colours_stay_where_the_terminal_has_them(
    poisoned_study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert cli.main(["show", str(poisoned_study)]) == 0
    said = capsys.readouterr().out
    assert set(steering(said)) == {"\x1b"}
    assert not any(sequence in said for sequence in ("\x1b[2J", "\x1b]", "\x1bc"))


def failed(study: Path) -> Outcome:
    outcome = read(study / "trials" / "0001" / "outcome.json", Outcome)
    failure = Failure(kind="error", stage=HOSTILE, message=HOSTILE, remedy=HOSTILE)
    return msgspec.structs.replace(outcome, status="failed", failure=failure, recipe=HOSTILE)


@pytest.mark.parametrize("is_live", [False, True])
def test_no_display_passes_it_on(recorded_study: Path, is_live: bool) -> None:
    stream = io.StringIO()
    display = LiveDisplay(make_console(stream, 80), {}) if is_live else PlainDisplay(stream, {})
    display.started(HOSTILE, Path(HOSTILE), Limits(budget_s=1.0, max_trials=None), [HOSTILE], 0.0, [])
    display.trial_started(1, HOSTILE, {"steps": HOSTILE}, 2)
    display.stage(1, HOSTILE, None)
    display.trial_ended(failed(recorded_study), HOSTILE)
    display.front([], HOSTILE)
    display.refused({"steps": HOSTILE}, HOSTILE)
    display.note(HOSTILE)
    display.task(HOSTILE, HOSTILE)
    if isinstance(display, LiveDisplay):
        display._console.print(display._render())
    display.closed()
    assert not steering(stream.getvalue())


def test_what_is_written_can_be_looked_at_and_is_read_back(tmp_path: Path, recorded_study: Path) -> None:
    kept = failed(recorded_study)
    (tmp_path / "outcome.json").write_bytes(encode_pretty(kept))
    assert not steering((tmp_path / "outcome.json").read_text())
    assert read(tmp_path / "outcome.json", Outcome) == kept
    assert read_json(tmp_path / "outcome.json")["failure"]["message"] == HOSTILE
    text = reason(kept)
    assert text and not steering(text)


@pytest.mark.parametrize("text", ["", "plain", "a\nb", "é 中 😀", "\U000e0041", HOSTILE, "\ud800"])
def test_escapes_change_no_content(text: str) -> None:
    assert json.loads(visible_json(json.dumps(text, ensure_ascii=False))) == text
    assert not steering(visible(text))
    assert visible(text) == text or steering(text)

"""Odd names, files, results and streams: one line, no traceback, exit code 2, two seconds after the imports."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tuner
from tuner import cli
from tuner.errors import BadInput
from tuner.files import read_file
from tuner.records import database
from tuner.space import yaml_file

TUNE = f"{sys.executable} -m tuner"
INDEX = '{"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}'


@pytest.mark.parametrize(
    ("command", "code", "lines"),
    [
        ("{tune} knobs >&-", 2, 1),
        ("{tune} run >&-", 2, 1),
        ("{tune} --help >&-", 2, 1),
        ("{tune} knobs <&- >&- 2>&-", 2, 0),
        ("{tune} knobs <&- >/dev/null", 0, 0),
        ("{tune} knobs 2>&- >/dev/null", 0, 0),
        ("{tune} nonsense 2>&-", 2, 0),
        ("{tune} knobs >/dev/full", 2, 1),
        ("{tune} knobs --json >/dev/full", 2, 1),
        ("{tune} --help >/dev/full", 2, 1),
        ("{tune} run --help >/dev/full", 2, 1),
        ("{tune} --version >/dev/full", 2, 1),
        ("(sleep 0.5; {tune} knobs) | true", 141, 0),
        ("(sleep 0.5; {tune} knobs --json) | true", 141, 0),
        ("(sleep 0.5; {tune} --help) | true", 141, 0),
        ("{tune} trace $'caf\\xe9.json'", 2, 1),
        ("{tune} run --out $'caf\\xe9'", 2, 1),
        ("{tune} run --set $'steps=\\xff'", 2, 1),
        ("{tune} $'\\xff'", 2, 1),
    ],
)
def test_standard_streams(tmp_path: Path, command: str, code: int, lines: int) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.replace("{tune}", TUNE)],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
    )  # fmt: skip
    assert (done.returncode, len(done.stderr.splitlines())) == (code, lines), done.stderr
    assert "Traceback" not in done.stderr


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)  # relative, as a socket's path must be short


ODD: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a socket": listen,
    "a device": lambda path: path.symlink_to("/dev/full"),
    "a link that leads nowhere": lambda path: path.symlink_to(path.name),
}
SPACE = "{pipelines: [any], workload: {prompts: [a]}, knobs: {steps: [2, 1]}, quality: {tolerance: 1}}"
HERE = ("run", "model", "--space", "space.yaml", "--device", "cpu")
ODD_PLACES = {
    "--space": ("run", "model", "--space", "odd"),
    "a model": ("run", "odd"),
    "a model that may be a hub id": ("knobs", "folder/odd"),
    "--scorer": (*HERE, "--scorer", "odd"),
    "--metric fid": (*HERE, "--scorer", "demo", "--metric", "fid=odd"),
    "--metric preference": (*HERE, "--scorer", "demo", "--metric", "preference=odd"),
    "--metric cmmd": (*HERE, "--scorer", "demo", "--metric", "cmmd=odd"),
    "prompts": (*HERE, "--scorer", "demo", "--set", "workload.prompts=odd"),
    "--out": ("run", "--out", "odd"),
    "a folder of studies": ("show", "--out", "odd"),
    "a study": ("resume", "odd"),
    "a board": ("board", "odd"),
    "a list": ("list", "odd"),
}


@pytest.mark.parametrize("place", ODD_PLACES)
@pytest.mark.parametrize("what", ODD)
def test_what_stands_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text(INDEX)
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "folder").symlink_to(".")
    ODD[what](tmp_path / "odd")
    monkeypatch.setattr("tuner.commands.checks.check_call", lambda *_: None)
    monkeypatch.setattr("tuner.model.folder_check.check_folder", lambda *_, **__: None)
    began = time.monotonic()
    assert cli.main(ODD_PLACES[place]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert ("odd" in line or "/dev/full" in line) and f"this is {what}" in line
    assert time.monotonic() - began < 4


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(100 << 30)


FILES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "log": lambda path: path.symlink_to("/proc/kmsg"),
    "loop": lambda path: path.symlink_to(path),
    "dangling": lambda path: path.symlink_to("/nowhere"),
    "folder": Path.mkdir,
    "sparse": sparse,
    "bytes": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "surrogate": lambda path: path.write_text(
        '{"_class_name": "FluxPipeline", "prompts": ["\\ud800"], "x": "\\ud800"}'
    ),
    "deep": lambda path: path.write_text("[" * 200_000),
}
PLACES = {
    "model/model_index.json": ("run", "model"),
    "model/transformer/config.json": ("run", "model", "--space", "space.yaml"),
    "model/transformer/diffusion_pytorch_model.safetensors": ("knobs", "model"),
    "scorer/config.json": ("run", "model", "--scorer", "scorer"),
    "prompts.json": ("run", "model", "--space", "space.yaml", "--set", "workload.prompts=prompts.json"),
    "prompts.txt": ("run", "model", "--space", "space.yaml", "--set", "workload.prompts=prompts.txt"),
    "space.yaml": ("run", "model", "--space", "space.yaml"),
    "best_config.json": ("cost", "best_config.json"),
    "trace.json": ("trace", "trace.json"),
    "logs/x.pt.trace.json": ("board", "logs"),
}
HARMLESS = {
    ("model/transformer/diffusion_pytorch_model.safetensors", what)
    for what in ("folder", "sparse", "bytes", "surrogate", "deep")
} | {("scorer/config.json", what) for what in ("sparse", "bytes", "surrogate", "deep")} | {
    ("logs/x.pt.trace.json", what) for what in ("sparse", "bytes", "surrogate", "deep")
} | {("model/transformer/config.json", "folder"), ("prompts.txt", "surrogate"), ("prompts.txt", "deep")}  # fmt: skip
"""What is not opened before the worker starts, or is right."""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", FILES)
def test_files_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str, what: str
) -> None:
    if (place, what) in HARMLESS:
        pytest.skip("not opened here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    for folder in ("model/transformer", "scorer", "logs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "model/model_index.json").write_text(INDEX)
    (tmp_path / "space.yaml").write_text("pipelines: [any]\nknobs: {steps: [2, 1]}\nquality: {tolerance: 1}\n")
    (tmp_path / place).unlink(missing_ok=True)
    FILES[what](tmp_path / place)
    began = time.monotonic()
    code = cli.main(PLACES[place])
    assert time.monotonic() - began < 4  # two, and the imports
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert Path(place).name in line or Path(place).parts[0] in line
    assert line.isprintable()
    assert not (tmp_path / "traces").exists()


@pytest.mark.parametrize("name", ["a?b#c", "{x}", "%41 %s", "a\nb'\"", "é&=;:@", "{", "~", "-x", "file:x", ":memory:"])
def test_any_name_of_a_folder_reaches_the_database_as_it_is(tmp_path: Path, name: str) -> None:
    from tuner.study.database import open_study

    folder = tmp_path / name
    folder.mkdir()
    open_study(folder)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [path.name for path in folder.iterdir()] == ["study.db"]
    assert database.select(folder / "study.db", "studies", "SELECT study_name FROM studies") == [(name,)]


@pytest.mark.parametrize(
    "content",
    [
        "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9) if i else 'x'}]\n" for i in range(12)),
        'pipelines: ["\\ud800"]', "[" * 5000, "x: " + "[{" * 20000, "? " * 60000, "a: [" + "b," * 120000 + "]",
    ],
)  # fmt: skip
def test_yaml_that_would_take_for_ever(tmp_path: Path, content: str) -> None:
    (tmp_path / "space.yaml").write_text(content)
    began = time.monotonic()
    with pytest.raises(BadInput, match=r"space\.yaml"):
        yaml_file.load_file(tmp_path / "space.yaml")
    assert time.monotonic() - began < 2


def test_a_packed_trace_that_never_ends_is_refused_early(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import gzip

    (tmp_path / "bomb.json.gz").write_bytes(gzip.compress(b"[" + b" " * (300 << 20), 9))
    began = time.monotonic()
    assert cli.main(["trace", str(tmp_path / "bomb.json.gz")]) == 2
    assert time.monotonic() - began < 4
    assert "bomb.json.gz" in capsys.readouterr().err


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 2048)
    assert len(read_file(tmp_path / "file", 2048)) == 2048
    with pytest.raises(BadInput, match="larger than 1 KiB"):
        read_file(tmp_path / "file", 1024)
    for path in ("a\0b", "\ud800", "x" * 5000):
        with pytest.raises(BadInput):
            read_file(tmp_path / path)


@pytest.mark.parametrize("given", ["loop", "loop/x", "x" * 300, "a/" * 3000, "/dev/null/x", "/proc/self/mem"])
def test_an_out_that_cannot_be_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    (tmp_path / "loop").symlink_to("loop")
    for command in (("run",), ("board",), ("board", "x"), ("show",), ("resume",)):
        try:
            code: object = cli.main([*command, "--out", given])
        except SystemExit as end:  # of argparse
            code = end.code
        assert code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(("tune: ", f"tune {command[0]}: "))
    shutil.rmtree(tmp_path / "a", ignore_errors=True)


# ---- a result that was damaged or edited ----------------------------------------------------------------------------


def put(path: str, value: Any) -> Callable[[Path], object]:
    """Set a field of a JSON file; `...` removes it."""

    def harm(file: Path) -> None:
        data = json.loads(file.read_text())
        *steps, last = [int(step) if step.isdecimal() else step for step in path.split("/")]
        target = data
        for step in steps:
            target = target[step]
        target[last] = value
        if value is ...:
            del target[last]
        file.write_text(json.dumps(data))

    return harm


def inserted(text: str) -> Callable[[Path], object]:
    """Write a text before the field `format`."""
    return lambda file: file.write_text(file.read_text().replace('"format"', f'{text},"format"', 1))


def replaced(make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Put something else in the place of a file."""

    def harm(file: Path) -> None:
        file.unlink()
        make(file)

    return harm


DEEP = "[" * 50_000 + "]" * 50_000
NOT_TAKEN = frozenset({"load", "export", "sglang", "package"})
"""Commands that use the chosen point alone, so that damage of another one does not matter."""

FROM_STUDY = frozenset({"load"})
"""Commands that do not read the study beside the result."""

DAMAGED: dict[str, tuple[Callable[[Path], object], str, frozenset[str]]] = {
    "another format": (put("format", "diffusion-tuner/9"), "format: diffusion-tuner/9, although", frozenset()),
    "an older format": (put("format", "diffusion-tuner/1"), "format: diffusion-tuner/1, although", frozenset()),
    "a foreign format": (put("format", "else"), "format: else: it is no result", frozenset()),
    "a format that is a number": (put("format", 2), "format: 2: it is no result", frozenset()),
    "no format": (put("format", ...), "format is missing: it is no result", frozenset()),
    "a version that is a number": (put("tuner_version", 3), "tuner_version: must be a text", frozenset()),
    "a date that is none": (put("created_at", "yesterday\n"), "created_at: ", frozenset()),
    "NaN": (put("chosen/quality", float("nan")), "chosen.quality: NaN is no number", frozenset()),
    "Infinity": (put("front/0/latency_s/high", float("inf")), "front[0].latency_s.high: Infinity", frozenset()),
    "a number too large": (inserted('"quality_floor":1e999'), "quality_floor: larger than any number", frozenset()),
    "a source that is no name": (put("model/source", "no such thing"), "model.source: no such thing", frozenset()),
    "a source elsewhere": (put("model/source", "/no/such"), "model.source: ", frozenset()),
    "a source that is an option": (put("model/source", "-x/--y"), "model.source: -x/--y", frozenset()),
    "a source that leads out": (put("model/source", "x/.."), "model.source: x/..", frozenset()),
    "a long source": (put("model/source", "/" + "x" * 5000), "model.source: /xx", frozenset()),
    "a source of two lines": (put("model/source", "/a\nimport os"), "model.source: /a import os", frozenset()),
    "a source with a NUL": (put("model/source", "/a\0b"), "model.source: /a\\x00b", frozenset()),
    "no source": (put("model/source", ""), "model.source: ", frozenset()),
    "a source that is no pipeline": (put("model/source", "/etc"), "model.source: /etc", frozenset()),
    "another revision": (put("model/revision", "x"), "model.revision: x", FROM_STUDY),
    "an unknown class": (put("model/pipeline_class", "OsPipeline"), "model.pipeline_class: ", FROM_STUDY),
    "another class": (put("model/pipeline_class", "SanaPipeline"), "model.pipeline_class: Sana", FROM_STUDY),
    "another metric": (put("quality_metric", "os:system"), "quality_metric: ", FROM_STUDY),
    "another device": (put("environment/device", "cuda"), "environment", FROM_STUDY),
    "a device that is none": (put("environment/device", "tpu"), "environment.device: 'tpu'", frozenset()),
    "a missing field": (put("chosen/latency_s", ...), "chosen.latency_s: it is missing", frozenset()),
    "a further field": (put("chosen/extra", 1), "chosen.extra: unknown field", frozenset()),
    "a repeated field": (inserted('"format":"diffusion-tuner/2"'), "duplicate key 'format'", frozenset()),
    "cut short": (lambda file: os.truncate(file, 2000), "not JSON: it ends too early", frozenset()),
    "empty": (lambda file: file.write_bytes(b""), "not JSON: it ends too early", frozenset()),
    "bytes": (lambda file: file.write_bytes(bytes(range(256))), "not JSON: ", frozenset()),
    "a folder": (replaced(Path.mkdir), "folder", frozenset({"load"})),
    "huge": (replaced(sparse), "larger than", frozenset()),
    "deep": (inserted(f'"x":{DEEP}'), "nested too deeply", frozenset()),
    "an unknown knob": (put("chosen/values/warp.drive", 9), "chosen.values.warp.drive: ", frozenset()),
    "an unknown change": (put("chosen/changed/warp.drive", 9), "chosen.changed.warp.drive: ", frozenset()),
    "an unknown knob on the front": (put("front/0/values/warp.drive", 9), "front[0].values.warp", NOT_TAKEN),
    "an unknown knob of the baseline": (put("baseline/values/warp.drive", 9), "baseline.values.warp", NOT_TAKEN),
    "an unknown value": (put("chosen/values/attention.backend", "os.system"), '"os.system" must be', frozenset()),
    "a long value": (put("chosen/values/attention.backend", "x" * 9999), 'xx..." must be', frozenset()),
    "a value of another type": (put("chosen/values/steps", "2"), 'chosen.values.steps: "2" must be', frozenset()),
    "a value that is none": (put("chosen/values/steps", None), "chosen.values.steps: must be", frozenset()),
    "a list for a value": (put("front/1/values/steps", [2]), "front[1].values.steps: must be", frozenset()),
    "a negative latency": (
        put("chosen/latency_s", {"value": -1, "low": -2, "high": -0.5}), "chosen.latency_s: ", frozenset()),
    "a text for a latency": (put("baseline/latency_s", "1 s"), "baseline.latency_s: must be", frozenset()),
    "no price": (put("price/usd_per_hour", 0), "price.usd_per_hour: ", frozenset()),
}  # fmt: skip
"""How a best_config.json is damaged, what the message has of it, and which commands it does not concern."""

RESULT_COMMANDS: dict[str, tuple[str, ...]] = {
    "verify": ("verify", "{file}"), "export": ("export", "{file}", "--to", "python"),
    "sglang": ("export", "{file}", "--to", "sglang"), "package": ("package", "{file}", "--out", "served"),
    "compare": ("compare", "{file}"), "cost": ("cost", "{file}"), "show": ("show", "{folder}"),
    "report": ("report", "{folder}"),
}  # fmt: skip
OF_THE_WHOLE_STUDY = ("show", "report")
"""Commands that compare a result with the trials of its study, and name the point that is not the recorded one."""


def refusal_of(command: str, file: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The only line that a command, or `tuner.load`, says of a damaged result."""
    if command == "load":
        with pytest.raises(BadInput) as refusal:
            tuner.load(file)
        return str(refusal.value)
    code = cli.main([part.format(file=file, folder=file.parent) for part in RESULT_COMMANDS[command]])
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert (code, printed.out) == (2, ""), (command, code, line)
    return line


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_result_is_refused_by_its_field_and_nothing_is_written(
    recorded_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    harm, named, exempt = DAMAGED[case]
    folder = tmp_path / "study"
    shutil.copytree(recorded_study, folder, ignore=shutil.ignore_patterns("cache"))
    file = folder / "best_config.json"
    harm(file)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for command in ("load", *RESULT_COMMANDS):
        if command in exempt:
            continue
        line = refusal_of(command, file, capsys)
        assert str(file) in line and line.isprintable() and len(line) < len(str(file)) + 400, (command, line)
        is_compared = command in OF_THE_WHOLE_STUDY and "writes it anew" in line
        assert named in line or is_compared, (command, line)
        assert re.search(r"; |write|use|name|remove|is here|expected|belongs", line), (command, line)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_result_away_from_its_model_is_exported_with_a_note(
    recorded_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(recorded_study / "best_config.json", tmp_path)
    assert cli.main(["export", str(tmp_path / "best_config.json"), "--to", "python"]) == 0
    assert "best_config.json: model.source: /model is not on this machine" in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded_is_named(
    recorded_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shutil.copy(recorded_study / "best_config.json", tmp_path)
    put("model/source", "owner/nosuch")(tmp_path / "best_config.json")
    with pytest.raises(BadInput, match=r"best_config\.json: model\.source: owner/nosuch: .*; load the pipeline for"):
        tuner.load(tmp_path / "best_config.json")

"""Odd names, files and streams: one line, no traceback, exit code 2, within two seconds after the imports."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

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

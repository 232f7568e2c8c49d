"""A user's metric that cannot be imported or called is known before the baseline, and its module is not run for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner import cli
from tuner.quality.metrics import entry_point

GOOD = {
    "plain": "def score(images, prompts): return [1.0 for _ in images]",
    "with a default": "def score(images, prompts, scale=2.0): return []",
    "any arguments": "def score(*arguments, **more): return []",
    "a class": "class score:\n    def __init__(self, images, prompts): pass",
    "imported": "from math import dist as score",
    "an instance": "class S:\n    def __call__(self, images, prompts): pass\nscore = S()",
    "decorated": "import functools\n@functools.cache\ndef score(a): pass",
    "made in a branch": "try:\n    import no_such_one\n    score = 1\nexcept ImportError:\n    def score(i, p): pass",
    "from everything": "from math import *",
    "on demand": "def __getattr__(name): return print",
    "declared global": "def make():\n    global score\n    score = print\nmake()",
    "with its own helper": "import helper\ndef score(images, prompts): pass",
    "relative": "from . import helper\ndef score(images, prompts): pass",
}

BAD = {
    "empty": ("", "has no function score"),
    "misspelt": ("def scor(images, prompts): pass", "has no function score; did you mean scor?"),
    "not Python": ("def score(images, prompts)\n", "line 1: not Python"),
    "not text": (b"\xff\xfe\0", "not Python"),
    "a NUL": ("def score(i, p): pass\n\0", "not Python"),
    "one argument": ("def score(images): pass", "called as score(images, prompts), and cannot be"),
    "three arguments": ("def score(images, prompts, seeds): pass", "cannot be"),
    "a keyword that is required": ("def score(images, prompts, *, seeds): pass", "cannot be"),
    "a number": ("score = 3.0", "score is not a function"),
    "a list": ("score = []", "score is not a function"),
    "a missing package": (
        "import no_such_package.part\ndef score(i, p): pass",
        "imports no_such_package, which is not",
    ),
    "a missing module of Python's": ("import xml.nope\ndef score(i, p): pass", "imports xml.nope, which is not"),
    "asynchronous": ("async def score(images, prompts): pass", "score is asynchronous"),
    "inside a class": ("class Mine:\n    def score(self, images, prompts): pass", "has no function score"),
    "inside a function": ("def make():\n    def score(images, prompts): pass", "has no function score"),
    "a missing package, from": ("from no_such_package import a\ndef score(i, p): pass", "imports no_such_package"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    entry_point.problem.cache_clear()
    (tmp_path / "helper.py").write_text("")
    return tmp_path


def write(folder: Path, source: str | bytes) -> None:
    """Write the user's module, which leaves a file if it is run."""
    data = source if isinstance(source, bytes) else source.encode()
    (folder / "mine.py").write_bytes(data + b"\nopen('was_run', 'w')\n" if data else data)


@pytest.mark.parametrize("name", GOOD)
def test_what_can_be_called_passes(name: str, folder: Path) -> None:
    write(folder, GOOD[name])
    assert entry_point.problem("mine:score") is None
    assert not (folder / "was_run").exists()


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_refused(name: str, folder: Path) -> None:
    source, expected = BAD[name]
    write(folder, source)
    assert expected in str(entry_point.problem("mine:score"))
    assert not (folder / "was_run").exists()


def test_functions_of_modules_without_a_source() -> None:
    assert "the module sys has no function nope" in str(entry_point.problem("sys:nope"))
    assert "the module sys has no function path" in str(entry_point.problem("sys:path"))
    assert entry_point.problem("sys:getsizeof") is None


@pytest.mark.parametrize("name", ["nowhere:score", "helper.part:score", "math.part:score", "a.b.c:score"])
def test_a_module_that_is_nowhere_is_refused(name: str) -> None:
    assert "there is no module" in str(entry_point.problem(name))


def test_a_module_in_a_package_is_found(folder: Path) -> None:
    (folder / "package" / "inner").mkdir(parents=True)
    (folder / "package" / "__init__.py").write_text("open('was_run', 'w')")
    (folder / "package" / "inner" / "mine.py").write_text(GOOD["plain"])
    assert entry_point.problem("package.inner.mine:score") is None
    assert "has no function other" in str(entry_point.problem("package.inner.mine:other"))
    assert not (folder / "was_run").exists()
    (folder / "package" / "__init__.py").unlink()
    entry_point.problem.cache_clear()
    assert entry_point.problem("package.inner.mine:score") is None


def test_installed_modules_pass() -> None:
    assert entry_point.problem("numpy:mean") is None
    assert entry_point.problem("math:dist") is None


def test_a_run_is_refused_before_it_starts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, "def other(images, prompts): pass")
    assert cli.main(["run", "--quality", "mine:score", "--set", "quality.tolerance=1"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("tune: --quality mine:score: ")
    assert line.count("\n") == 1
    assert not (folder / "traces").exists()

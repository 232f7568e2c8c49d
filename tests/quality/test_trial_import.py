"""What only running a user's metric tells: its module is imported in a process of its own, before the baseline."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tuner.commands import checks, run
from tuner.errors import BadInput
from tuner.quality.metrics import entry_point, trial_import

BAD = {
    "a name that is not there": ("import torch\nfrom math import nope", "line 2: the module math has no nope"),
    "a misspelt name": ("from collections import Odereddict", "has no Odereddict; did you mean OrderedDict?"),
    "a name of a package": ("from msgspec import nope", "line 1: ImportError: cannot import name 'nope'"),
    "a helper that fails": ("from helper import nope", "line 1: ImportError: cannot import name 'nope'"),
    "a helper that is not Python": ("import torn", "torn.py, line 2: not Python: "),
    "a relative import": ("from . import helper", "line 1: ImportError: attempted relative import"),
    "a name that is not defined": ("\nx = y", "line 2: NameError: name 'y' is not defined"),
    "an error inside a function": ("def make():\n    return 1 / 0\nmake()", "line 2: ZeroDivisionError"),
    "a program that ends": ("import sys\nsys.exit(3)", "line 2: SystemExit: 3"),
    "a class": ("class score:\n    pass", "mine.py, line 1: score is a class; name a function"),
    "an instance that cannot be called": ("class S: pass\nscore = S()", "score is not a function"),
    "an asynchronous one": ("async def a(i, p): pass\nscore = a", "mine.py, line 1: score is asynchronous"),
    "a decorated one": (
        "import functools\n@functools.cache\ndef score(images): pass",
        "mine.py, line 2: it is called as score(images, prompts), and cannot be: too many positional arguments",
    ),
    "a partial one": ("import functools\ndef f(a): pass\nscore = functools.partial(f, 1)", "cannot be: too many"),
    "a name that is deleted": ("def score(i, p): pass\ndel score", "AttributeError: module 'mine' has no"),
}
GOOD = {
    "a function": "def score(images, prompts): return [1.0]",
    "an instance": "class S:\n    def __call__(self, images, prompts): pass\nscore = S()",
    "a function in C": "from math import dist as score",
    "a module of a package": "from xml import dom\nfrom os import path\nfrom math import *\nimport helper\nscore = max",
    "a package that is optional": "try:\n    import no_such_package\nexcept ImportError: pass\ndef score(i, p): pass",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    entry_point.problem.cache_clear()
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    (tmp_path / "helper.py").write_text("")
    (tmp_path / "torn.py").write_text("\ndef (")
    return tmp_path


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_imported_or_called_is_named_with_its_line(name: str, folder: Path) -> None:
    source, expected = BAD[name]
    (folder / "mine.py").write_text(source if "score" in source else f"{source}\ndef score(images, prompts): pass")
    assert expected in str(trial_import.problem("mine:score"))


@pytest.mark.parametrize("name", GOOD)
def test_what_can_be_called_passes(name: str, folder: Path) -> None:
    (folder / "mine.py").write_text(GOOD[name])
    assert trial_import.problem("mine:score") is None


def test_a_process_of_its_own_answers_whatever_the_module_prints_or_leaves(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mine.py").write_text("print('noise')\nfrom msgspec import nope\ndef score(i, p): pass")
    with pytest.raises(BadInput, match=r"--quality mine:score: .*mine.py, line 2: ImportError"):
        run.quality_policy("mine:score", [], "demo")
    (folder / "mine.py").write_text("import os\nos._exit(3)\ndef score(i, p): pass")
    assert checks.trial_import("mine:score") == "importing it ends the process with exit code 3"
    assert not (folder / "__pycache__").exists()
    monkeypatch.setattr(checks, "TRIAL_IMPORT_S", 0.3)
    (folder / "mine.py").write_text("import time\ntime.sleep(60)\ndef score(i, p): pass")
    assert checks.trial_import("mine:score") is None


@pytest.mark.parametrize(
    ("written", "remedy"),
    [
        ("mine.py:score", "write your own metric as mine:score"), ("mine.py", "mine:FUNCTION"),
        ("mine.score", "as mine:score"), ("mine", "as mine:FUNCTION"), ("mine:", "as mine:FUNCTION"),
        ("/there/other.py:score", "as other:score, and start tune in /there"), ("./mine.py:score", "as mine:score"),
    ],
)  # fmt: skip
def test_a_file_is_refused_with_the_spelling(written: str, remedy: str, folder: Path) -> None:
    (folder / "mine.py").write_text("def score(i, p): pass")
    with pytest.raises(BadInput) as refusal:
        run.quality_policy(written, [], "demo")
    assert remedy in str(refusal.value)

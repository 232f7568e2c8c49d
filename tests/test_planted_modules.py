"""Files in the current folder that are named like modules: nothing imports them, in no process of any command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import write_tiny_clip

from tuner.commands.checks import TRIAL_IMPORT
from tuner.execution import python
from tuner.execution.launch import WORKER
from tuner.execution.template import TEMPLATE
from tuner.study.finalists import EXAMINER

NAMES = (
    "bz2", "lzma", "json", "random", "typing", "pathlib", "re", "argparse", "fnmatch", "subprocess", "dataclasses",
    "sitecustomize", "usercustomize", "numpy", "torch", "diffusers", "transformers", "msgspec", "yaml", "rich",
    "psutil", "optuna", "sqlalchemy", "filelock", "packaging", "typing_extensions", "markdown", "werkzeug",
    "tensorboard", "PIL", "scipy", "pynvml", "torchmetrics", "huggingface_hub", "safetensors",
    "xformers", "flash_attn", "cache_dit", "cudnn",
)  # fmt: skip
PAYLOAD = "import os\nopen(os.environ['TUNER_SPRUNG'], 'a').write(__name__ + '\\n')\n"
MODULE = (sys.executable, "-m", "tuner")
SCRIPT = (sys.executable, "-c", "import sys; del sys.path[0]; from tuner.__main__ import main; sys.exit(main())")
"""As the installed script starts, whose own folder is first on its path."""

SPACE = """
pipelines: [any]
workload: {prompts: [a, b], height: 32, width: 32}
quality: {tolerance: 90}
baseline: {steps: 2}
knobs: {steps: [2, 1], compile.scope: [none, full]}
"""


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A folder with a payload under every name; half of them are packages."""
    folder = tmp_path / "planted"
    folder.mkdir()
    for index, name in enumerate(NAMES):
        file = folder / name / "__init__.py" if index % 2 else folder / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(PAYLOAD)
    return folder


def environment(folder: Path, **more: str) -> dict[str, str]:
    offline = {"CUDA_VISIBLE_DEVICES": "-1", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **offline, **more, "TUNER_SPRUNG": str(folder.parent / "sprung")}


def sprung(folder: Path) -> str:
    file = folder.parent / "sprung"
    return file.read_text() if file.exists() else ""


COMMANDS = {
    "run": ("run", "nowhere"), "knobs": ("knobs",), "doctor": ("doctor",), "trace": ("trace", "bz2.py"),
    "cost": ("cost", "bz2.py"), "help": ("--help",), "version": ("--version",),
}  # fmt: skip


@pytest.mark.parametrize("start", [MODULE, SCRIPT], ids=["module", "script"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_imports_from_the_current_folder(planted: Path, command: str, start: tuple[str, ...]) -> None:
    done = subprocess.run(
        [*start, *COMMANDS[command]], cwd=planted, env=environment(planted), capture_output=True, text=True, timeout=120
    )
    assert sprung(planted) == ""
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1, 2)


@pytest.mark.parametrize(
    ("path", "kept"), [(None, ""), ("", ""), (":", ""), ("/a:", "/a"), (":/a", "/a"), ("/a::/b", "/a:/b"), (".", ".")]
)
def test_an_empty_entry_of_pythonpath_is_not_handed_on(
    monkeypatch: pytest.MonkeyPatch, path: str | None, kept: str
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if path is not None:
        monkeypatch.setenv("PYTHONPATH", path)
    assert python.environment()["PYTHONPATH"] == kept


@pytest.mark.parametrize(
    "program", [WORKER, TEMPLATE, EXAMINER, TRIAL_IMPORT, python.command("tuner.board.server")], ids=lambda p: p[-1]
)
def test_no_child_imports_from_there(planted: Path, program: tuple[str, ...]) -> None:
    """Each imports what it needs, and ends because its job or its arguments are missing."""
    given = environment(planted, **python.environment())
    lifeline, other_end = os.pipe()
    done = subprocess.run(program, cwd=planted, env=given, capture_output=True, text=True, timeout=120, stdin=lifeline)
    os.close(lifeline)
    os.close(other_end)
    assert "IndexError" in done.stderr or "TypeError" in done.stderr, done.stderr
    assert sprung(planted) == ""


def test_no_grandchild_imports_from_there(planted: Path) -> None:
    (planted / "script.py").write_text("import bz2, lzma, numpy")
    code = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import bz2, json, numpy'], check=True); "
        "subprocess.run([sys.executable, 'script.py'], check=True)"
    )
    given = environment(planted, **python.environment())
    subprocess.run([sys.executable, "-c", code], cwd=planted, env=given, check=True, timeout=120)
    assert sprung(planted) == ""


@pytest.mark.exhaustive
def test_a_whole_run_imports_nothing_from_the_current_folder(planted: Path, tiny_pipeline: Path) -> None:
    """Baseline, compiled candidate, finalists, in a folder that is the model as well."""
    for part in tiny_pipeline.iterdir():
        (planted / part.name).symlink_to(part)
    write_tiny_clip(planted / "scorer")
    (planted / "space.yaml").write_text(SPACE)
    done = subprocess.run(
        [*SCRIPT, "run", ".", "--scorer", "scorer", "--space", "space.yaml", "--device", "cpu", "--budget", "4m",
         "--trials", "3"], cwd=planted, env=environment(planted), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert sprung(planted) == ""
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (planted / "traces").iterdir()
    assert len(list(folder.glob("trials/*/outcome.json"))) >= 2
    assert (folder / "panel.json").exists()
    with shown(planted):
        assert sprung(planted) == ""


class shown:
    """`tune board` while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        self.board = subprocess.Popen(
            [*SCRIPT, "board"], cwd=self.folder, env=environment(self.folder), stdout=subprocess.PIPE, text=True
        )
        assert self.board.stdout is not None
        assert "TensorBoard shows" in self.board.stdout.readline()
        time.sleep(8)  # its plugin reads each trace in a process of its own

    def __exit__(self, *_: object) -> None:
        self.board.send_signal(signal.SIGINT)
        self.board.wait(30)


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """The source alone, in a folder where nothing is installed, with a payload beside it."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "tuner").symlink_to(python.PACKAGE)
    (folder / "bz2.py").write_text(PAYLOAD)
    yield folder


def test_a_source_folder_works_without_the_package_installed(checkout: Path) -> None:
    given = {name: value for name, value in environment(checkout).items() if name != "PYTHONPATH"}
    code = (
        "import sys; del sys.path[0]; sys.path.insert(0, sys.argv.pop()); import tuner\n"
        "from tuner.execution import python; import subprocess\n"
        "command = [*python.command('tuner.quality.examine'), 'nowhere.json', 'x']\n"
        "child = subprocess.Popen(command, env=python.environment(), stdin=-1, stderr=-1, text=True)\n"
        "print(child.stderr.read())"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", code, str(checkout)], cwd=checkout, env=given, capture_output=True, text=True
    )
    assert "nowhere.json" in done.stdout, done.stdout + done.stderr
    assert sprung(checkout) == ""


def test_a_metric_of_the_users_comes_from_the_current_folder(planted: Path) -> None:
    (planted / "own.py").write_text("import bz2, helper\ndef score(images, prompts): return helper.score(images)\n")
    (planted / "helper.py").write_text("def score(images): return [1.0] * len(images)\n")
    code = (
        "import numpy as np\nfrom tuner.quality.images import Images\nfrom tuner.quality.metrics import get_objective\n"
        "images = Images(np.zeros((2, 4, 4, 3), np.float32), ['a', 'b'])\n"
        "print(get_objective('own:score').scores(images, images, None))"
    )
    given = environment(planted, **python.environment())
    done = subprocess.run([sys.executable, "-c", code], cwd=planted, env=given, capture_output=True, text=True)
    assert done.stdout.strip() == "(1.0, 1.0)", done.stderr
    assert sprung(planted) == ""


def test_every_child_is_started_with_a_safe_import_path() -> None:
    files = [file for file in Path(python.PACKAGE).rglob("*.py") if "sys.executable" in file.read_text()]
    assert [file.name for file in files] == ["python.py"]

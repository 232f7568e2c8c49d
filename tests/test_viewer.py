"""`tune board`: which folder it shows, how it starts and ends, and what it says when it cannot."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
import viewed_study

from tuner.board import pages, plugin, start
from tuner.cli import main
from tuner.errors import BadInput, Unavailable

WITHIN_S = 60


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A folder with two studies, the second one newer."""
    for index, name in enumerate(("older", "newer")):
        viewed_study.make(tmp_path / name)
        os.utime(tmp_path / name / "trials", (1e9 + index, 1e9 + index))
    return tmp_path


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind((start.HOST, 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_the_newest_study_is_shown(studies: Path) -> None:
    assert start.find_log_folder(None, studies) == studies / "newer" / "trials"
    assert start.find_log_folder(str(studies), Path("elsewhere")) == studies / "newer" / "trials"


def test_a_study_is_found_by_name_or_path(studies: Path) -> None:
    shown = studies / "older" / "trials"
    assert start.find_log_folder("older", studies) == shown
    assert start.find_log_folder(str(studies / "older"), Path("elsewhere")) == shown
    assert start.find_log_folder(str(shown), Path("elsewhere")) == shown


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ("oldr", "oldr: no such study; did you mean older? `tune list --out {}` lists the studies"),
        ("something else", "something else: no such study; `tune list --out {}` lists the studies"),
        ("empty", "{}/empty: nothing to show yet, neither trials nor traces"),
    ],
)
def test_a_wrong_study_is_one_line(studies: Path, capsys: pytest.CaptureFixture[str], study: str, said: str) -> None:
    (studies / "empty").mkdir()
    assert main(["board", study, "--out", str(studies)]) == 2
    assert capsys.readouterr().err == f"tune: {said.format(studies)}\n"


def test_a_folder_without_studies_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board", "--out", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"tune: {tmp_path}/none: no study in there; `tune run` makes one\n"


def test_a_port_that_is_taken_is_one_line(studies: Path, taken: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board", "--out", str(studies), "--port", str(taken)]) == 2
    assert re.fullmatch(rf"tune: --port {taken}: taken .*\n", capsys.readouterr().err)


def test_a_port_that_is_none_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["board", "--port", "70000"])
    assert ended.value.code == 2
    assert "is not a port" in capsys.readouterr().err


def test_the_next_free_port_is_taken(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "PORTS", range(taken, taken + 20))
    assert start.free_port(None) > taken
    monkeypatch.setattr(start, "PORTS", range(taken, taken + 1))
    with pytest.raises(BadInput, match="are all taken"):
        start.free_port(None)


@pytest.mark.parametrize("name", sorted(pages.SCRIPTS))
def test_no_page_loads_anything_from_the_web(name: str) -> None:
    page = pages.page(name)
    assert re.findall(r"""<(?:script|link|img)[^>]*(?:src|href)\s*=\s*["']?https?:""", page) == []
    assert all((pages.STATIC / script).read_text(encoding="utf-8") in page for script in pages.SCRIPTS[name][1])


def test_a_page_that_changed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pages.SCRIPTS, "index.html", ("<script src='elsewhere.js'></script>", ("charts.js",)))
    pages.page.cache_clear()
    with pytest.raises(Unavailable, match=r"index\.html is another than that of .*elsewhere\.js"):
        pages.page("index.html")


def test_every_third_party_script_has_its_licence() -> None:
    licences = (pages.STATIC / "LICENSES.md").read_text(encoding="utf-8")
    assert all(file.name in licences for file in pages.STATIC.glob("*.js"))


def test_plain_tensorboard_needs_no_internet_either(studies: Path) -> None:
    from tensorboard import default

    if plugin.MendedProfiler not in default.get_plugins():
        pytest.skip("the package is not installed, so TensorBoard does not know of its entry point")
    address = f"http://127.0.0.1:{viewed_study.a_port()}/"
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", str(studies / "older"), "--host", start.HOST,
         "--port", str(urlsplit(address).port)],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        listed = json.loads(fetched(f"{address}data/plugins_listing"))
        assert listed["pytorch_profiler"]["enabled"]
        assert b"gstatic.com" not in fetched(f"{address}data/plugin/pytorch_profiler/index.html")
    finally:
        process.terminate()
        process.wait(WITHIN_S)


def test_the_profiler_is_changed_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts a thread that reads the traces as soon as it is made."""
    from tensorboard import program
    from tensorboard.plugins.core.core_plugin import CorePluginLoader
    from torch_tb_profiler import plugin as profiler

    monkeypatch.setattr(profiler, "RunLoader", profiler.RunLoader)
    for name in ("static_file_route", "is_active"):
        monkeypatch.setattr(profiler.TorchProfilerPlugin, name, getattr(profiler.TorchProfilerPlugin, name))
    board = program.TensorBoard(plugins=[CorePluginLoader, profiler.TorchProfilerPlugin, plugin.MendedProfiler])
    board.configure(["tensorboard", "--logdir", str(tmp_path)])
    assert profiler.RunLoader.__module__ == "tuner.board.reading"


def fetched(address: str) -> bytes:
    """What a server answers, once it is there."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            with urlopen(address) as answer:
                return bytes(answer.read())
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_todays_categories_and_kernels_are_known() -> None:
    from torch_tb_profiler.profiler.tensor_core import TC_Allowlist
    from torch_tb_profiler.profiler.trace import create_event

    from tuner.board import reading

    assert issubclass(reading.Loader, reading.RunLoader)
    for category in reading.CATEGORIES:
        event = {
            "ph": "X",
            "cat": category,
            "name": "cuLaunchKernel",
            "ts": 1,
            "dur": 1,
            "pid": 1,
            "tid": 1,
            "args": {},
        }
        assert create_event(event, False).type == "Runtime"
    assert all(kernel in TC_Allowlist for _, kernel, _, _ in viewed_study.KERNELS[:2])
    assert all(kernel not in TC_Allowlist for _, kernel, _, _ in viewed_study.KERNELS[2:])


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Where the command's temporary files go. The plugin makes sockets in there, whose paths must be short."""
    with tempfile.TemporaryDirectory(prefix="b") as folder:
        yield Path(folder)


@pytest.fixture
def board(studies: Path, scratch: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tuner", "board", "older", "--out", str(studies), "--port",
         str(viewed_study.a_port())],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )  # fmt: skip
    yield process
    process.kill()
    process.communicate()


def address_of(board: subprocess.Popen[str]) -> str:
    assert board.stdout is not None
    said = [board.stdout.readline() for _ in range(6)]
    assert "older/trials; Ctrl-C ends it" in said[0], board.communicate()[1]
    assert "2 traces" in said[-1]
    return said[1].split()[0]


def refuses(address: str) -> bool:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        try:
            urlopen(address).close()
        except OSError:
            return True
        time.sleep(0.1)
    return False


def test_it_serves_this_machine_only_and_ctrl_c_ends_it(board: subprocess.Popen[str], scratch: Path) -> None:
    address = address_of(board)
    assert address.startswith("http://127.0.0.1:")
    assert b"gstatic.com" not in fetched(f"{address}data/plugin/pytorch_profiler/index.html")
    board.send_signal(signal.SIGINT)
    rest, errors = board.communicate(timeout=WITHIN_S)
    assert (board.returncode, rest, errors) == (0, "\n", "")
    assert refuses(address)
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_the_server_ends_when_the_command_is_killed(
    number: signal.Signals, board: subprocess.Popen[str], scratch: Path
) -> None:
    address = address_of(board)
    assert list(scratch.iterdir()) != []
    board.send_signal(number)
    assert refuses(address)
    assert list(scratch.iterdir()) == []


def test_only_a_long_study_needs_its_trials_ticked(studies: Path, tmp_path: Path) -> None:
    address = "http://127.0.0.1:6006/"
    assert "runSelectionState" not in start.guide(studies / "older" / "trials", address)
    long = viewed_study.make_long(tmp_path / "long")
    *_, last = start.guide(long / "trials", address).splitlines()
    assert json.loads(base64.b64decode(last.partition("#text&runSelectionState=")[2])) == {
        "0000": True, "0001": True, "0007": True, "study": True,
    }  # fmt: skip
    (long / "best_config.json").write_text('{"baseline": 3}')
    assert "runSelectionState" not in start.guide(long / "trials", address)
    (long / "best_config.json").unlink()
    assert "runSelectionState" not in start.guide(long / "trials", address)


def test_the_command_itself_imports_neither_torch_nor_tensorboard(studies: Path) -> None:
    code = f"""
import sys
from pathlib import Path
import tuner.cli
from tuner.board import start
with start.serve(start.find_log_folder("older", Path({str(studies)!r})), {viewed_study.a_port()}) as (address, process):
    start.guide(Path({str(studies)!r}), address)
print(*(sys.modules.keys() & {{"torch", "tensorboard", "torch_tb_profiler"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=WITHIN_S, capture_output=True, text=True)
    assert done.stdout.split() == []

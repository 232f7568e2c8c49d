"""Study folders from elsewhere that lead out of themselves, or hold what no study holds: refused by name, exit code 2,
within two seconds, and nothing outside is changed."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tuner import cli
from tuner.records.database import SUPER_JOURNAL

STUDY = Path(__file__).parent.parent / "data" / "version-0.1.0" / "study"
LIMIT_S = 2.0


def link(name: str) -> Callable[[Path, Path], str]:
    """Put a link to the folder or file outside in place of what the study has."""

    def plant(study: Path, outside: Path) -> str:
        place = study / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        place.symlink_to(outside if "." not in place.name and place.name != "lock" else outside / "kept.txt")
        return place.name

    return plant


def put(name: str, make: Callable[[Path], object]) -> Callable[[Path, Path], str]:
    def plant(study: Path, outside: Path) -> str:
        place = study / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        make(place)
        return place.name

    return plant


def listen(place: Path) -> None:
    short = Path("/tmp") / f"s{os.getpid()}{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(short))
    shutil.move(short, place)


def sparse(place: Path) -> None:
    with place.open("wb") as file:
        file.truncate(100 << 30)


def device(place: Path) -> None:
    try:
        os.mknod(place, 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        os.mkfifo(place)


def hard_link(name: str) -> Callable[[Path, Path], str]:
    def plant(study: Path, outside: Path) -> str:
        (study / name).unlink(missing_ok=True)
        os.link(outside / "kept.txt", study / name)
        return name

    return plant


def journal(study: Path, outside: Path) -> str:
    """A rollback journal that names another file, which SQLite deletes when it has rolled back."""
    name = str(outside / "kept.txt").encode()
    check = sum(name) & 0xFFFFFFFF
    database(lambda connection: connection.execute("CREATE TABLE studies (x)"))(study, outside)
    header = SUPER_JOURNAL + struct.pack(">5I", 0, 0, 1, 512, 4096)
    content = header.ljust(512, b"\0") + struct.pack(">I", 1) + name + struct.pack(">II", len(name), check)
    (study / "study.db-journal").write_bytes(content + SUPER_JOURNAL)
    return "study.db-journal"


def database(change: Callable[[sqlite3.Connection], object]) -> Callable[[Path, Path], str]:
    def plant(study: Path, outside: Path) -> str:
        (study / "study.db").unlink(missing_ok=True)
        connection = sqlite3.connect(study / "study.db")
        change(connection)
        connection.commit()
        connection.close()
        return "study.db"

    return plant


ENDLESS = "CREATE VIEW studies AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"

HOSTILE: dict[str, Callable[[Path, Path], str]] = {
    **{
        f"link {name}": link(name)
        for name in (
            "trials",
            "trials/0999",
            "trials/0000",
            "trials/0000/images",
            "trials/0000/images/0000.png",
            "trials/0000/sweep",
            "trials/0000/worker.log",
            "trials/0000/events.out.tfevents.1.tune.1",
            "trials/0000/outcome.json",
            "trials/0000/x.pt.trace.json.gz",
            "trials/0000/.outcome.json.abc",
            "repetitions",
            "repetitions/0014",
            "strips",
            "strips/0003.png",
            "panel.log",
            "panel.job.json",
            "panel.json",
            "study.db",
            "study.db-journal",
            "study.json",
            "lock",
            "best_config.json",
            "stages.jsonl",
            "template.log",
            "cache",
            "cache/inductor",
            "cache/a/b/c/d",
            "other",
            "\x1b[2J.txt",
        )
    },
    **{
        f"hard link {name}": hard_link(name) for name in ("study.db", "lock", "panel.log", "study.json", "stages.jsonl")
    },
    **{
        f"pipe {name}": put(name, os.mkfifo)
        for name in ("study.json", "study.db", "lock", "best_config.json", "trials", "trials/0000/outcome.json", "a b")
    },
    **{f"device {name}": put(name, device) for name in ("study.json", "lock", "trials/0000/outcome.json")},
    **{f"socket {name}": put(name, listen) for name in ("study.db", "strips", "trials/0000/worker.log")},
    **{
        f"folder {name}": put(name, Path.mkdir)
        for name in (
            "study.json",
            "study.db",
            "lock",
            "best_config.json",
            "trials/0000/outcome.json",
            "panel.log",
            "stages.jsonl",
        )
    },
    **{
        f"file {name}": put(name, Path.touch)
        for name in ("trials", "repetitions", "strips", "cache", "trials/0007", "repetitions/0001")
    },
    **{f"100 GB {name}": put(name, sparse) for name in ("study.json", "study.db", "trials/0000/outcome.json")},
    "a link to itself": put("trials/0001", lambda place: place.symlink_to(place)),
    "a dangling link": put("trials/0001", lambda place: place.symlink_to("/nowhere")),
    "a link to the folder itself": put("trials/0001", lambda place: place.symlink_to("..")),
    "another database": database(lambda connection: connection.execute("CREATE TABLE cookies (x)")),
    "an endless view": database(lambda connection: connection.execute(ENDLESS)),
    "a trigger": database(
        lambda connection: connection.executescript(
            "CREATE TABLE studies (x); CREATE TRIGGER t AFTER INSERT ON studies BEGIN DELETE FROM studies; END"
        )
    ),
    "a journal that names another file": journal,
}
IN_CONTENT = ("100 GB", "another", "an endless", "a trigger", "a journal")
"""What is noticed once the file is read, and another fault of this study, which an old version wrote, comes before."""

COMMANDS = {"resume": ("resume", "STUDY"), "show": ("show", "STUDY"), "board": ("board", "STUDY")}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    (folder / "images").mkdir(parents=True)
    (folder / "kept.txt").write_text("precious")
    (folder / "outcome.json").write_text("precious")
    return folder


def content(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*")}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "traces" / "study"
    shutil.copytree(STUDY, folder)
    return folder


@pytest.mark.parametrize("planted", HOSTILE)
def test_a_store_does_not_open_it(planted: str, study: Path, outside: Path) -> None:
    """What every resumption goes through, with any request: the folder is checked before anything is read."""
    from tuner.errors import BadInput
    from tuner.study.database import open_study
    from tuner.study.store import Store

    named = HOSTILE[planted](study, outside)
    before, began = content(outside), time.monotonic()
    is_database = planted.startswith(("another", "an endless", "a trigger", "a journal", "100 GB"))
    with pytest.raises(BadInput) as refusal:
        if is_database and named.startswith("study.db"):
            open_study(study)
        with Store(study, None):  # type: ignore[arg-type]
            pass
    assert named in str(refusal.value) or planted == "100 GB trials/0000/outcome.json"
    assert time.monotonic() - began < LIMIT_S
    assert content(outside) == before


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("planted", HOSTILE)
def test_no_command_opens_it(
    planted: str, command: str, study: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = HOSTILE[planted](study, outside)
    before, began = content(outside), time.monotonic()
    if command == "board" and planted.startswith(("100 GB", "a trigger", "an", "a journal", "pipe study.json")):
        pytest.skip("the board reads none of these")
    code = cli.main([str(study) if word == "STUDY" else word for word in COMMANDS[command]])
    assert code == 2
    assert time.monotonic() - began < LIMIT_S
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tune: ") and line.isprintable()
    assert named.replace("\x1b", r"\x1b") in line or planted.startswith(IN_CONTENT)
    assert content(outside) == before


def test_the_study_itself_may_be_reached_through_a_link(study: Path, tmp_path: Path) -> None:
    from tuner.files import require_own_tree

    (tmp_path / "link").symlink_to(study)
    require_own_tree(tmp_path / "link")

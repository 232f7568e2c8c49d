"""Optuna's database in a study folder, which may come from elsewhere: how to name it, check it and read it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tuner.errors import BadInput

MAX_BYTES = 1 << 30
"""A study of a thousand trials has some 2 MB."""

COMPANIONS = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside a database while it is written to."""

SUPER_JOURNAL = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
"""The end of a rollback journal that names another file, which SQLite would delete. Only transactions over several
databases write it (sqlite.org/fileformat2.html#the_rollback_journal), and a study has one."""


def url(database: Path) -> str:
    """Return the URL of a database for SQLAlchemy and Optuna, whatever characters its path has."""
    from sqlalchemy import URL

    file = database.absolute().as_uri()  # a path as it is would end at a question mark
    return URL.create("sqlite", database=file, query={"uri": "true"}).render_as_string()


def check(database: Path) -> None:
    """Raise BadInput if a database that is there is not one that Optuna wrote. Write nothing but SQLite's recovery."""
    _check_files(database)
    if database.exists():
        kinds = dict(_rows(database, "SELECT name, type FROM sqlite_master WHERE type != 'index'", mode="rw"))
        foreign = [f"{kind} {name}" for name, kind in kinds.items() if kind != "table"]
        if foreign:
            raise BadInput(f"{database}: damaged: it has the {foreign[0]}, and Optuna makes none")
        if kinds and "studies" not in kinds:
            raise BadInput(f"{database}: the database of another program, not of a study")


def select(database: Path, table: str, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Read rows of a table without writing to the database. Raises BadInput if it is damaged."""
    _check_files(database)
    kind = _rows(database, "SELECT type FROM sqlite_master WHERE name = ?", (table,))
    if kind != [("table",)]:
        raise BadInput(f"{database}: damaged: it has no table {table}")
    return _rows(database, query, values)


def _rows(database: Path, query: str, values: Sequence[Any] = (), mode: str = "ro") -> list[tuple[Any, ...]]:
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode={mode}", uri=True)) as connection:
            return connection.execute(query, values).fetchall()
    except sqlite3.Error as error:
        raise BadInput(f"{database}: damaged: {error}") from None


def _check_files(database: Path) -> None:
    files = [database.with_name(f"{database.name}{suffix}") for suffix in ("", *COMPANIONS)]
    for file in files:
        if file.exists() and (not file.is_file() or file.stat().st_size > MAX_BYTES):
            raise BadInput(f"{file}: not a file, or larger than {MAX_BYTES >> 30} GiB, which no study's database is")
    journal = files[1]
    if journal.exists() and _end(journal, len(SUPER_JOURNAL)) == SUPER_JOURNAL:
        raise BadInput(f"{journal}: it names another file to delete, as no study's journal does; remove it")


def _end(file: Path, count: int) -> bytes:
    """Return the last bytes of a file."""
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - count))
        return opened.read(count)

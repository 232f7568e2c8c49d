"""The paths inside a study folder, reads that cannot hang, and writes that leave whole files after a crash."""

from __future__ import annotations

import errno
import os
import re
import secrets
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tuner.errors import BadInput, StorageFull


@dataclass(frozen=True)
class StudyFolder:
    """The paths of everything in a study folder."""

    root: Path

    @property
    def request(self) -> Path:
        """What the study is about."""
        return self.root / "study.json"

    @property
    def repricing(self) -> Path:
        """There while the costs of the study are computed again at another price."""
        return self.root / "repricing"

    @property
    def database(self) -> Path:
        """Optuna's study, on SQLite."""
        return self.root / "study.db"

    @property
    def lock(self) -> Path:
        """Held by the process that runs the study."""
        return self.root / "lock"

    @property
    def best_config(self) -> Path:
        """The result."""
        return self.root / "best_config.json"

    @property
    def trials(self) -> Path:
        """A folder for each trial."""
        return self.root / "trials"

    @property
    def repetitions(self) -> Path:
        """A folder for each repetition."""
        return self.root / "repetitions"

    @property
    def strips(self) -> Path:
        """Strips of images of the finalists."""
        return self.root / "strips"

    @property
    def artifacts(self) -> Path:
        """Images of trials for optuna-dashboard, by the ids that Optuna gave them."""
        return self.root / "artifacts"

    @property
    def noise_floor(self) -> Path:
        """The part of the noise floor that was measured after the baseline was acknowledged."""
        return self.trial(0) / "noise_floor.json"

    @property
    def cache(self) -> Path:
        """Compiled code: see `tuner/study/compiled_code.py` for whose."""
        return self.root / "cache"

    @property
    def stages(self) -> Path:
        """What each worker did when."""
        return self.root / "stages.jsonl"

    @property
    def template_log(self) -> Path:
        """What the process that workers are forked from reports."""
        return self.root / "template.log"

    def trial(self, number: int) -> Path:
        """Return the folder of a trial."""
        return self.trials / f"{number:04}"

    def images(self, number: int) -> Path:
        """Return the folder of a trial's images."""
        return self.trial(number) / "images"

    def repetition(self, repetition: int) -> Path:
        """Return the folder of a repetition, by its id."""
        return self.repetitions / f"{repetition:04}"

    def holds(self, path: str) -> bool:
        """Return whether a path that a record names lies in this folder."""
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root))

    def panel(self, suffix: str) -> Path:
        """Return a file of the process that judges the finalists."""
        return self.root / f"panel.{suffix}"


def thumbnail_path(image: Path) -> Path:
    """Return where the small copy of a large image lies."""
    return image.parent / "thumbnails" / f"{image.stem}.jpg"


def numbered(folder: Path) -> dict[int, Path]:
    """Return the folders of trials, or of repetitions, in a folder by number.

    Only names that a study gives count. Others, such as "0007 copy", are somebody else's: not read, and never removed.
    """
    own = [path for path in folder.iterdir() if OWN_NAME.fullmatch(path.name)] if folder.is_dir() else []
    return {int(path.name): path for path in sorted(own, key=lambda path: int(path.name))}


# ---- reading --------------------------------------------------------------------------------------------------------

MAX_RECORD_BYTES = 16 << 20
"""The limit of a JSON file: a study of ten thousand prompts has some 2 MB."""


def read_file(path: Path, max_bytes: int = MAX_RECORD_BYTES) -> bytes:
    """Read a regular file whole.

    Raises BadInput with the path if it is missing, unreadable, larger than the limit, or a pipe, a device or the like,
    which could block or never end.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from None
    if data is None:  # as of a file of the kernel that has nothing to say at the moment
        raise BadInput(f"{path}: it gives nothing, and would be waited for")
    if len(data) > max_bytes:
        raise BadInput(f"{path}: larger than {max_bytes >> 10:,} KiB, which no file of this sort is")
    return data


def read_text(path: Path, max_bytes: int = MAX_RECORD_BYTES) -> str:
    """Read a regular file of UTF-8 text whole. Raises BadInput with the path if it is none."""
    try:
        return read_file(path, max_bytes).decode()
    except UnicodeDecodeError:
        raise BadInput(f"{path}: it is not UTF-8 text: save it as UTF-8") from None


def open_regular(path: Path) -> int:
    """Open a regular file for reading and return its descriptor. Raises OSError, or BadInput if it is not regular."""
    try:
        require_regular(path, Path(path).stat().st_mode)  # to open some devices does something already
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL, or a character that no path has
        raise BadInput(f"{path}: not a path: {error}") from None
    try:
        require_regular(path, os.fstat(descriptor).st_mode)
    except BadInput:
        os.close(descriptor)
        raise
    return descriptor


def require_regular(path: Path, mode: int) -> None:
    """Raise BadInput if a file's mode is not that of a regular file, or if reading it may block all the same."""
    if not stat.S_ISREG(mode):
        raise BadInput(f"{path}: a regular file is expected here, and this is {kind_of(mode)}")
    if os.path.realpath(path).startswith(KERNEL):
        raise BadInput(f"{path}: a regular file is expected here, and this is one of the kernel's")


def require_own_tree(root: Path) -> None:
    """Check a study folder that is there, which may come from elsewhere, before anything in it is opened.

    Raises BadInput, naming it, for a link, a pipe or the like at any depth, and for a file where a folder belongs or
    the other way round. Through a link what lies outside could be written or removed. The folder itself may be
    reached through one.
    """
    folders = [root] if root.is_dir() else []
    while folders:
        # What a study that runs removes meanwhile does no harm.
        with suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                state = entry.stat(follow_symlinks=False)
                _require_own(root, Path(entry.path), state)
                if stat.S_ISDIR(state.st_mode):
                    folders.append(Path(entry.path))


def _require_own(root: Path, path: Path, state: os.stat_result) -> None:
    parts, is_folder = path.relative_to(root).parts, stat.S_ISDIR(state.st_mode)
    if not is_folder and not stat.S_ISREG(state.st_mode):
        raise BadInput(f"{path}: a study holds files and folders only, and this is {kind_of(state.st_mode)}; remove it")
    is_numbered = len(parts) == 2 and parts[0] in NUMBERED and OWN_NAME.fullmatch(parts[1]) is not None
    is_place = parts in PLACES or is_numbered
    is_named_file = (len(parts) == 1 and path.name in FILES) or path.name == "outcome.json"
    if (is_place and not is_folder) or (is_named_file and is_folder):
        raise BadInput(
            f"{path}: a {'folder' if is_place else 'file'} belongs here, and this is {kind_of(state.st_mode)}"
        )
    if not is_folder and state.st_nlink > 1 and parts[0] != "cache":
        raise BadInput(
            f"{path}: a hard link, so that writing to it changes another file too; copy the study with cp -r"
        )


NUMBERED = ("trials", "repetitions")
OWN_NAME = re.compile("[0-9]{4}|[1-9][0-9]{4,5}")
"""The name of a trial's or a repetition's folder. No study comes to a million of them."""
PLACES = tuple((name,) for name in (*NUMBERED, "strips", "cache", "artifacts"))
FILES = (
    "study.json", "study.db", "study.db-journal", "study.db-wal", "study.db-shm", "lock", "advice.json",
    "warm_start.json", "best_config.json", "report.html", "stages.jsonl", "template.log", "panel.json",
    "panel.job.json", "panel.log",
)  # fmt: skip


def require_regular_files(folder: Path) -> None:
    """Raise BadInput if a folder, which need not be there, has something else in it than regular files and folders.

    Links are followed, as the hub's cache has them.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror}") from None
        if not stat.S_ISDIR(mode):
            require_regular(path, mode)


def resolved(path: str | Path) -> Path:
    """Return an absolute path without links. Unlike Path.resolve it does not mind a link to itself.

    Raises BadInput if the path cannot be recorded.
    """
    real = os.path.realpath(path)
    if not is_unicode(real):
        raise BadInput(f"{real}: not UTF-8 text, which records need; rename it")
    return Path(real)


def is_unicode(text: str) -> bool:
    """Return whether a text can be written; bytes that are not UTF-8 become half surrogate pairs in Python."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def absent(path: str | Path, noun: str) -> str:
    """Return that there is no such thing at a path or, if something else stands there, what that is."""
    kind = kind_at(path)
    return f"no such {noun}" if kind is None else f"a {noun} is expected here, and this is {kind}"


def kind_at(path: str | Path) -> str | None:
    """Return what stands at a path, in words; None if nothing does, or nothing can."""
    with suppress(OSError, ValueError):
        return kind_of(os.stat(path).st_mode)  # noqa: PTH116
    with suppress(OSError, ValueError):
        return "a link that leads nowhere" if os.path.lexists(path) else None
    return None


def kind_of(mode: int) -> str:
    """Return what a file is, in words."""
    return next((kind for is_kind, kind in KINDS if is_kind(mode)), "something else")


KERNEL = ("/proc/", "/sys/")
KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISREG, "a file"),
)

# ---- writing --------------------------------------------------------------------------------------------------------


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that after a crash at any instant it is whole or not there. The umask decides who may read it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # mkstemp would make it private
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn write errors of the file system and SQLite into StorageFull or BadInput of one line."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise  # of standard output
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(full_disk_message(folder)) from None
        raise BadInput(f"{error.filename or folder}: {error.strerror}") from None
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
        if "full" in str(error.__cause__ or error) or "disk I/O" in str(error.__cause__ or error):
            raise StorageFull(full_disk_message(folder)) from None
        raise BadInput(f"{folder / 'study.db'}: {str(error).splitlines()[0][:200]}") from None


def full_disk_message(folder: Path, detail: str = "") -> str:
    """Return what to do about a full disk, in one line."""
    reason = f" ({detail})" if detail else ""
    return f"{folder}: the disk is full{reason}; make room and run the same command again, every recorded trial is kept"

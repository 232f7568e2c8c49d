"""What travels with jobs: paths relative to the study, the files that a job reads, and those that its worker wrote."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from tuner.errors import BadInput
from tuner.records.protocol import Job

SCRATCH = "tune-ray-"
"""How the folders begin that nodes keep files in."""

RECORD = "outcome.json"
"""The file that acknowledges a trial."""


def with_paths(job: Job, folder: Callable[[str], str], images: Callable[[str], str]) -> Job:
    """Return a job with changed paths: of the folders that its worker writes to, and of the images that it reads."""
    replace, reference = msgspec.structs.replace, job.reference
    points = tuple(
        replace(
            point,
            folder=folder(point.folder),
            spot_check=point.spot_check and replace(point.spot_check, images=images(point.spot_check.images)),
        )
        for point in job.points
    )
    if reference is not None:
        paths = {name: getattr(reference, name) for name in ("images", "other_seeds", "denoiser")}
        reference = replace(reference, **{name: images(path) for name, path in paths.items() if path is not None})
    return replace(job, points=points, reference=reference)


def files_below(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the regular files at a path or below it, but for those that are being written (`atomic_write`)."""
    return _regular([path, *path.rglob("*")])


def model_files(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the regular files at a path or below it, those in linked folders as well."""
    return _regular([path, *_with_linked(path)])


def _regular(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    for file in paths:
        with suppress(OSError):
            state = file.stat()
            if stat.S_ISREG(state.st_mode) and not file.name.startswith("."):
                yield file, state


def _with_linked(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real not in above and folder.is_dir():  # else it is a link to a folder that it lies in
        for path in sorted(folder.iterdir()):
            yield path
            yield from _with_linked(path, (*above, real))


def write_files(root: Path, files: Mapping[str, Any], within: str = ".") -> None:
    """Write files by their paths below `root`.

    Raises BadInput if one would lie elsewhere than `within`, or is a record, which only the parent writes.
    """
    allowed = Path(os.path.realpath(root / within))
    for name, data in files.items():
        path = Path(os.path.realpath((root / name).parent), Path(name).name)
        if not path.is_relative_to(allowed) or ".." in Path(name).parts:
            raise BadInput(f"{name}: a node sent a file that belongs elsewhere than in {within}")
        if within != "." and path.name == RECORD:
            raise BadInput(f"{name}: a node sent a record, which only the parent writes")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb", opener=_open_no_link) as file:
            file.write(data)


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


class Written:
    """The files that a worker writes below a folder, by their paths below `root`."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self.folder = folder
        self.known: dict[Path, tuple[int, int]] = {}

    def changed(self) -> dict[str, bytes]:
        """Return the files that are new or have changed since the last call."""
        found = {}
        for file, state in files_below(self.folder):
            version = (state.st_mtime_ns, state.st_size)
            if self.known.get(file) != version:
                with suppress(FileNotFoundError):
                    found[str(file.relative_to(self.root))] = file.read_bytes()
                self.known[file] = version
        return found


class Scratch:
    """A node's private folder for one run of a study, which all actors of the node share.

    Each holds a lock on it. A folder that nobody holds is removed by the next actor that starts.
    """

    def __init__(self, run: str, node: str) -> None:
        parent = Path(tempfile.gettempdir())
        self.folder = parent / f"{SCRATCH}{run}-{node[:12]}"
        for left in set(parent.glob(f"{SCRATCH}*")) - {self.folder}:
            remove_unused(left)
        self.lock = self._hold()

    def _hold(self) -> int:
        """Make the folder, and lock it. Another actor may remove it in between: then again."""
        while True:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            if not is_private(self.folder):
                raise BadInput(f"{self.folder}: it is not a folder that only this user can enter; remove it")
            with suppress(FileNotFoundError):
                lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
                fcntl.flock(lock, fcntl.LOCK_SH)
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(lock), (self.folder / "lock").stat()):
                        return lock
                os.close(lock)

    def close(self) -> None:
        """Leave the folder. The last actor removes it."""
        os.close(self.lock)
        remove_unused(self.folder)


def is_private(folder: Path) -> bool:
    """Return whether this is a folder of this user, no link to one, that nobody else can enter."""
    state = folder.lstat()
    return stat.S_ISDIR(state.st_mode) and stat.S_IMODE(state.st_mode) == 0o700 and state.st_uid == os.geteuid()


def remove_unused(folder: Path) -> None:
    """Remove a folder of this user that no actor holds."""
    with suppress(OSError):
        if not is_private(folder):
            return
        lock = os.open(folder / "lock", os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def last_line(error: Exception) -> str:
    """Return what an error of Ray says at the end of its traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__

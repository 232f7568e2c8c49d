"""What travels with jobs: paths relative to the study, the files that a job reads, and those that its worker wrote."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from tuner.errors import BadInput
from tuner.records.protocol import Job

SCRATCH = "tune-ray-"
"""How the folders begin that nodes keep files in."""


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
    for file in [path, *path.rglob("*")]:
        with suppress(OSError):
            state = file.stat()
            if stat.S_ISREG(state.st_mode) and not file.name.startswith("."):
                yield file, state


def write_files(root: Path, files: Mapping[str, Any], within: str = ".") -> None:
    """Write files by their paths below `root`. Raises BadInput if one would lie elsewhere than `within`."""
    for name, data in files.items():
        path = root / name
        if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(root / within)):
            raise BadInput(f"{name}: a node sent a file that belongs elsewhere than in {within}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(data)


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
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self.lock, fcntl.LOCK_SH)

    def close(self) -> None:
        """Leave the folder. The last actor removes it."""
        os.close(self.lock)
        remove_unused(self.folder)


def remove_unused(folder: Path) -> None:
    """Remove a folder of this user that no actor holds."""
    with suppress(OSError):
        if folder.stat().st_uid != os.geteuid():
            return
        lock = os.open(folder / "lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def last_line(error: Exception) -> str:
    """Return what an error of Ray says at the end of its traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__

"""The paths inside a study folder, and writes that leave whole files after a crash."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from tuner.errors import BadInput, StorageFull
from tuner.records.quality import Quality, Reference


@dataclass(frozen=True)
class StudyFolder:
    """The paths of everything in a study folder."""

    root: Path

    @property
    def request(self) -> Path:
        """What the study is about."""
        return self.root / "study.json"

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
    def noise_floor(self) -> Path:
        """The part of the noise floor that was measured after the baseline was acknowledged."""
        return self.trial(0) / "noise_floor.json"

    @property
    def cache(self) -> Path:
        """Compiled code. Whoever can write it can run code here, so it is the owner's alone."""
        path = self.root / "cache"
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def trial(self, number: int) -> Path:
        """Return the folder of a trial."""
        return self.trials / f"{number:04}"

    def images(self, number: int) -> Path:
        """Return the folder of a trial's images."""
        return self.trial(number) / "images"

    def repetition(self, repetition: int) -> Path:
        """Return the folder of a repetition, by its id."""
        return self.repetitions / f"{repetition:04}"

    def panel(self, suffix: str) -> Path:
        """Return a file of the process that judges the finalists."""
        return self.root / f"panel.{suffix}"


OTHER_SEEDS, DENOISER, VARIATIONS = "other_seeds", "denoiser.safetensors", "variations"
"""In the baseline's folder, beside its images."""


def baseline_reference(folder: Path, quality: Quality) -> Reference:
    """Return what the baseline's folder holds for judging other configurations."""
    other_seeds, denoiser = folder / OTHER_SEEDS, folder / DENOISER
    return Reference(
        images=str(folder / "images"),
        scores=quality.scores,
        other_seeds=str(other_seeds) if other_seeds.is_dir() else None,
        denoiser=str(denoiser) if denoiser.is_file() else None,
        floor=quality.noise.max_difference if quality.noise else None,
    )


@contextmanager
def lock_study(path: Path) -> Iterator[None]:
    """Hold a study's lock. Raises BadInput if another process holds it."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise BadInput(f"{path.parent}: another process is running this study") from None
    try:
        yield
    finally:
        lock.release()


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that after a crash at any instant it is whole or not there."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
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
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(full_disk_message(folder)) from None
        raise BadInput(f"{error.filename or folder}: {error.strerror}") from None
    except (StorageInternalError, SQLAlchemyError) as error:
        if "full" in str(error.__cause__ or error) or "disk I/O" in str(error.__cause__ or error):
            raise StorageFull(full_disk_message(folder)) from None
        raise BadInput(f"{folder / 'study.db'}: {str(error).splitlines()[0][:200]}") from None


def full_disk_message(folder: Path, detail: str = "") -> str:
    """Return what to do about a full disk, in one line."""
    reason = f" ({detail})" if detail else ""
    return f"{folder}: the disk is full{reason}; make room and run the same command again, every recorded trial is kept"

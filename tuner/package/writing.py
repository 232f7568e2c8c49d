"""Write a package, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec

from tuner.errors import BadInput
from tuner.export.base import read_tuned
from tuner.files import absent, read_file
from tuner.package.compiled import copy_compiled_code, find_compiled_code, fingerprint
from tuner.package.records import Package
from tuner.package.texts import texts
from tuner.records.codec import encode_pretty
from tuner.result.config import read_best
from tuner.result.records import BestConfig


def write_package(file: Path, trial: int | None, folder: Path) -> Package:
    """Write the package of a best_config.json to a folder that is new or empty.

    Raises BadInput if the result or the folder cannot be used.
    """
    check_folder(folder)
    best = read_tuned(file, trial)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as made:
            package = _fill(Path(made) / "package", file, best, str(folder))
            (Path(made) / "package").rename(folder)
    except BadInput as error:
        raise BadInput(f"{file}: {error}") from None
    return package


def check_folder(folder: Path) -> None:
    """Raise BadInput unless a package can be written there."""
    if not folder.name or folder.name == "..":
        raise BadInput(f"--out {folder}: name a folder that is new or empty, and not the current one")
    if not folder.parent.is_dir():
        raise BadInput(f"--out {folder}: {folder.parent}: {absent(folder.parent, 'folder')}")
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"--out {folder}: it is there already: name a folder that is new or empty")


def _fill(folder: Path, file: Path, best: BestConfig, shown: str) -> Package:
    folder.mkdir(mode=0o755)
    package = _with_compiled_code(Package(folder=shown, trial=best.chosen.trial, files=()), folder, file, best)
    is_choice = read_best(file).chosen.trial == best.chosen.trial
    (folder / "best_config.json").write_bytes(read_file(file))
    for name, text in texts(best, package, is_choice=is_choice).items():
        (folder / name).write_text(text, encoding="utf-8")
    return msgspec.structs.replace(package, files=tuple(sorted(path.name for path in folder.iterdir())))


def _with_compiled_code(package: Package, folder: Path, file: Path, best: BestConfig) -> Package:
    """Copy the study's compiled code, if it has any that may be used, and say so."""
    cache, reason = find_compiled_code(file, best)
    if cache is None:
        return msgspec.structs.replace(package, no_compiled_code_reason=reason)
    count, size = copy_compiled_code(cache, folder / "cache")
    mark = folder / "cache" / "fingerprint.json"
    mark.write_bytes(encode_pretty(fingerprint(best.environment)))
    mark.chmod(0o644)
    return msgspec.structs.replace(package, compiled_files=count, compiled_bytes=size)

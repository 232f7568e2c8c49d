"""The compiled code of a study, to ship with a configuration."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tuner.errors import BadInput, Unavailable
from tuner.files import StudyFolder, require_own_tree
from tuner.hardware.environment import detect
from tuner.package.records import Fingerprint
from tuner.records.machine import Environment
from tuner.result.records import BestConfig
from tuner.search.request import read_request
from tuner.study.compiled_code import is_sealed
from tuner.verify.changes import differing, software

CACHES = ("inductor", "triton")
LIBRARIES = ("torch", "triton", "torchao", "diffusers")
LEFT_OUT = ("locks",)
"""Folders that compilers need while they run only."""

NOTHING_COMPILED = "nothing is compiled in this configuration"


def find_compiled_code(file: Path, best: BestConfig) -> tuple[Path | None, str | None]:
    """Return the folder of compiled code of the study of a result, or why there is none to ship."""
    paths = StudyFolder(file.resolve().parent)
    if best.chosen.compile_s == 0:
        return None, NOTHING_COMPILED
    if not paths.request.exists():
        return None, f"no study is in {paths.root}"
    try:
        require_own_tree(paths.root)
        recorded = read_request(paths.request).environment
        here = detect(best.environment.device)
    except (BadInput, Unavailable) as error:
        return None, str(error)
    if recorded != best.environment:
        return None, f"the study in {paths.root} is of another machine"
    return _usable(paths.cache, best.environment, here)


def _usable(cache: Path, recorded: Environment, here: Environment) -> tuple[Path | None, str | None]:
    """Return the folder if it was made here by this user, with what is installed now."""
    if not is_sealed(cache):
        return None, f"{cache} was not made where it lies by this user"
    changed = differing(software("", recorded), software("", here))
    if changed:
        each = changed[0]
        return None, f"{each.name} was {each.recorded} and is {each.now} now"
    if not any(_files(cache)):
        return None, f"{cache} is empty"
    return cache, None


def copy_compiled_code(cache: Path, target: Path) -> tuple[int, int]:
    """Copy compiled code, so that no other user can change it. Return the number of files and their bytes."""
    files = list(_files(cache))
    for path in files:
        copy = target / path.relative_to(cache)
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        shutil.copyfile(path, copy, follow_symlinks=False)
        copy.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
    for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    return len(files), sum(path.stat().st_size for path in files)


def _files(cache: Path) -> Iterator[Path]:
    """Yield the compilers' regular files, by name."""
    for name in CACHES:
        for path in sorted((cache / name).rglob("*")):
            if path.is_file() and not path.is_symlink() and not set(path.relative_to(cache).parts) & set(LEFT_OUT):
                yield path


def fingerprint(environment: Environment) -> Fingerprint:
    """Describe what code that was compiled here needs. The shipped module compares it with where it runs."""
    return Fingerprint(
        device=environment.device,
        device_name=environment.device_name,
        compute_capability=environment.compute_capability,
        instructions=cpu_instructions() if environment.device == "cpu" else None,
        machine=platform.machine(),
        python=".".join(environment.python.split(".")[:2]),
        libc=platform.libc_ver()[1],
        libraries={name: environment.libraries.get(name) for name in LIBRARIES},
    )


def cpu_instructions() -> str | None:
    """Hash the names of a CPU's instruction sets; None where the system does not list them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    return hashlib.sha256(" ".join(sorted(found[1].split())).encode()).hexdigest()[:16] if found else None

"""The folder of compiled code in a study: whoever can write to it can run code here.

A study may come from elsewhere. Its compiled code is used only if it was made where it lies. A seal proves that: it
holds the inode and the time of the last status change of another file in the folder, which the file system sets and
which no archive and no copy can bring along.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

MADE, SEAL = "made", "seal"


def own_cache(folder: Path) -> Path:
    """Return a study's folder of compiled code, emptied if it was not made here."""
    cache = folder / "cache"
    if cache.exists() and not is_sealed(cache):
        shutil.rmtree(cache)
    if not cache.exists():
        cache.mkdir(mode=0o700)
        (cache / MADE).touch()
        (cache / SEAL).write_text(status(cache), encoding="ascii")
    return cache


def is_sealed(cache: Path) -> bool:
    """Return whether this user made the folder where it lies, and no other can write to it."""
    with suppress(OSError, ValueError):
        is_own = all(path.stat().st_uid == os.geteuid() for path in (cache, cache / MADE, cache / SEAL))
        is_private = cache.stat().st_mode & 0o022 == 0
        return is_own and is_private and (cache / SEAL).read_text(encoding="ascii") == status(cache)
    return False


def status(cache: Path) -> str:
    """Return what the file system knows of the folder's first file, and no user can set."""
    known = (cache / MADE).stat()
    return f"{known.st_dev}:{known.st_ino}:{known.st_ctime_ns}"

"""Find and read the source of diffusers' classes without importing it, which takes seconds and imports torch."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

_DECLARATION = re.compile(rb"^class (\w+)", re.MULTILINE)


@cache
def root() -> Path | None:
    """Return the folder of the installed diffusers, or None."""
    spec = importlib.util.find_spec("diffusers")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


@cache
def class_files(folder: str) -> dict[str, Path]:
    """Return the file that declares each class below a folder of diffusers, the first if there are several."""
    files: dict[str, Path] = {}
    parent = root()
    for file in sorted((parent / folder).rglob("*.py")) if parent else ():
        for name in _DECLARATION.findall(file.read_bytes()):
            files.setdefault(name.decode(), file)
    return files


@cache
def class_source(folder: str, name: str) -> str:
    """Return the text of the file below a folder of diffusers that declares a class, or "" if no file does."""
    file = class_files(folder).get(name)
    return file.read_text(encoding="utf-8") if file else ""

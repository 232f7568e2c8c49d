"""Where diffusers' source declares its classes, without importing it: an import takes seconds and torch."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

_DECLARATION = re.compile(rb"^class (\w+)", re.MULTILINE)


@cache
def root() -> Path | None:
    """The folder of the installed diffusers; None without it."""
    spec = importlib.util.find_spec("diffusers")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


@cache
def class_files(folder: str) -> dict[str, Path]:
    """The classes declared below a folder of diffusers, each with its file, the first where there are several."""
    found: dict[str, Path] = {}
    parent = root()
    for file in sorted((parent / folder).rglob("*.py")) if parent else ():
        for name in _DECLARATION.findall(file.read_bytes()):
            found.setdefault(name.decode(), file)
    return found


@cache
def class_source(folder: str, name: str) -> str:
    """The text of the file below this folder of diffusers that declares a class; empty where none does."""
    file = class_files(folder).get(name)
    return file.read_text(encoding="utf-8") if file else ""

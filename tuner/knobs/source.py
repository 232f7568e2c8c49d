"""What diffusers' source says of a class, without importing it: an import takes seconds and torch."""

from __future__ import annotations

from functools import cache

from tuner import diffusers_source


@cache
def file_of(folder: str, name: str) -> str:
    """The text of the file below this folder of diffusers that declares a class; empty where none does."""
    file = diffusers_source.declared(folder).get(name)
    return file.read_text(encoding="utf-8") if file else ""

"""Read the JSON files of a model's folder: each name once, an object, not a pointer of Git LFS."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuner.errors import BadInput
from tuner.files import read_file

MAX_JSON_BYTES = 64 << 20
MAX_DEPTH = 100
LFS = b"version https://git-lfs"


class _Repeated(Exception):
    """A name stands twice in an object."""


def read_object(file: Path) -> dict[str, Any]:
    """Read a file with one JSON object. Raises BadInput with the file, and the name that an object has twice."""
    data = read_whole(file)
    try:
        content = json.loads(data.decode(), object_pairs_hook=_object)
    except _Repeated as error:
        raise BadInput(f"{file}: {error}: the name is there twice; remove the one that is not meant") from None
    except (ValueError, RecursionError):
        raise BadInput(f"{file}: not JSON in UTF-8, empty or cut short; download it again") from None
    if not isinstance(content, dict):
        raise BadInput(f"{file}: not a JSON object; download it again")
    if _is_deep(content):
        raise BadInput(f"{file}: nested more than {MAX_DEPTH} levels deep; download it again")
    return content


def read_whole(file: Path) -> bytes:
    """Read a regular file. Raises BadInput with the file if it is only a pointer of Git LFS."""
    data = read_file(file, MAX_JSON_BYTES)
    if data.startswith(LFS):
        raise BadInput(f"{file}: a pointer of Git LFS instead of the file; run git lfs pull in its folder")
    return data


def loads(data: bytes) -> Any:
    """Read JSON. Raises ValueError if it is not JSON or if an object has a name twice."""
    try:
        return json.loads(data, object_pairs_hook=_object)
    except _Repeated as error:
        raise ValueError(f"{error} is there twice") from None


def _is_deep(content: Any) -> bool:
    """Return whether values are nested so deep that no model means it, and recursion might fail."""
    level = [content]
    for _ in range(MAX_DEPTH):
        items = (value.values() if isinstance(value, dict) else value for value in level)
        level = [child for values in items for child in values if isinstance(child, dict | list)]
    return bool(level)


def shown(text: str, length: int = 80) -> str:
    """Return a text of a file as a message can show it: without control characters, and not too long."""
    return ascii(text)[1:-1][:length]


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Repeated(shown(next(name for name in names if names.count(name) > 1)))
    return found

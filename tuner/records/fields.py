"""Find a field of a JSON file that a decoder refused without its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any


class Constant(str):
    """A constant that other programs write into JSON, although JSON has no such number: NaN, Infinity."""


def find(data: bytes | str, is_meant: Callable[[Any], bool], below: str = "") -> tuple[str, Any] | None:
    """Return the path and the value of the first field that is meant, below a path, or None."""
    try:
        content = json.loads(data, parse_constant=Constant)
        found = ((path, value) for path, value in _walk(content, "") if path.startswith(below) and is_meant(value))
        return next(found, None)
    except (ValueError, RecursionError):
        return None


def is_no_value(value: Any) -> bool:
    """Return whether something cannot be the value of a knob: null, a list, an object."""
    return value is None or isinstance(value, list | dict)


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if path:
        yield path, value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _walk(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk(inner, f"{path}[{index}]")

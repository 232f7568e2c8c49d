"""What YAML can hold and JSON cannot: a study would write it and not read it back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from tuner.errors import BadInput
from tuner.records.text import shown

NOT_UNICODE = "not Unicode text: it has half of a surrogate pair, or bytes that are not UTF-8"
MAX_DIGITS = 300
"""Digits of a whole number."""


def check_plain(data: Any, where: str) -> None:
    """Check that JSON can hold each number and text of some data. Raises BadInput with `where` and the field."""
    for field, value in _leaves(data, ""):
        reason = unwritable_reason(value)
        if reason:
            name = field.encode("ascii", "backslashreplace").decode()
            raise BadInput(": ".join(filter(None, (where, shown(name), reason))))


def unwritable_reason(value: Any) -> str | None:
    """Return why JSON cannot hold a value, or None."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a finite number"
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        return f"a number of more than {MAX_DIGITS} digits"
    if isinstance(value, str) and not _is_unicode(value):
        return NOT_UNICODE
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _leaves(data: Any, field: str, above: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield every key and every value that is no container, with the path of its field.

    `above` are the containers on the path: with YAML's aliases, one may hold itself.
    """
    if id(data) in above:
        return
    inside = (*above, id(data))
    if isinstance(data, dict):
        for key, value in data.items():
            path = f"{field}.{key}".removeprefix(".")
            yield path, key
            yield from _leaves(value, path, inside)
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _leaves(value, f"{field}[{index}]", inside)
    else:
        yield field, data

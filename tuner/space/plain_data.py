"""What YAML can hold and JSON cannot: a study would write it and not read it back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

from tuner.errors import BadInput
from tuner.space.candidates import format_value

NOT_UNICODE = "not Unicode text: it has half of a surrogate pair, or bytes that are not UTF-8"
MAX_LEAVES = 100_000
"""Of data whose shape is not known: a few lines of YAML can stand for more than memory holds."""

MAX_DIGITS = 300
"""Digits of a whole number."""


def check_plain(data: Any, where: str, most: int | None = None) -> None:
    """Check that JSON can hold each number and text of some data, or of its first `most` ones.

    Raises BadInput with `where` and the field.
    """
    for field, value in islice(_leaves(data, ""), most):
        reason = unwritable_reason(value)
        if reason:
            name = field.encode("ascii", "backslashreplace").decode()
            raise BadInput(f"{where}: {format_value(name)}: {reason}")


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


def _leaves(data: Any, field: str) -> Iterator[tuple[str, Any]]:
    """Yield every key and every value that is no container, with the path of its field."""
    if isinstance(data, dict):
        for key, value in data.items():
            path = f"{field}.{key}".removeprefix(".")
            yield path, key
            yield from _leaves(value, path)
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _leaves(value, f"{field}[{index}]")
    else:
        yield field, data

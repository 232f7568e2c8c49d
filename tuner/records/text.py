"""Text from files and other programs, made safe to print: nothing of it may steer a terminal.

Characters that are not printable would: escape sequences move the cursor, change colours and make links, and others
change the direction in which text is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tuner.numbers import format_exact

MAX_SHOWN = 80
"""Characters of a value in a message."""


def visible(text: str) -> str:
    """Return a text of several lines in which characters that are not printable are written as Python writes them."""
    return _escaped(text, lambda char: ascii(char)[1:-1])


def format_value(value: object) -> str:
    """Format a value in one line as space files and `--set` take it: true and false, no powers of ten."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return format_exact(value) if isinstance(value, float) else visible(" ".join(str(value).split()))


def shown(value: object) -> str:
    """Format a value, cut where it is long: in messages about files and arguments, which may hold anything."""
    text = format_value(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def visible_json(text: str) -> str:
    """Return JSON with the same content, in which characters that are not printable are written as escapes."""
    return _escaped(text, lambda char: "".join(f"\\u{unit:04x}" for unit in _utf16(char)))


def _escaped(text: str, escape: Callable[[str], str]) -> str:
    if all(map(str.isprintable, text.split("\n"))):
        return text
    return "".join(char if char == "\n" or char.isprintable() else escape(char) for char in text)


def _utf16(char: str) -> Iterator[int]:
    units = char.encode("utf-16-be", "surrogatepass")
    return (int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2))

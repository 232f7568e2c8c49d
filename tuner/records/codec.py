"""The base of all records and their strict JSON.

A record crosses a process or is kept in a file. It is a frozen msgspec struct: unknown keys, missing keys, wrong types,
values out of range and NaN are refused when it is read. Nothing but data can come out of a file. A field's name ends in
its unit.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

import msgspec

from tuner.errors import BadInput
from tuner.files import MAX_RECORD_BYTES, read_file
from tuner.records import fields
from tuner.records.text import shown, visible_json

Value = bool | int | float | str
Values = dict[str, Value]

# The upper limits are far above what any machine reaches: a figure beyond one is damage, and no chart can show it.
Number = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
NonNegative = Annotated[float, msgspec.Meta(ge=0, le=1e30)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e30)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
PositiveCount = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e8)]
Rate = Annotated[float, msgspec.Meta(ge=1e-9, le=1e9)]
Score = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**46)]


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class _RecordMeta(msgspec.StructMeta):
    """Makes every record frozen, keyword-only and strict: msgspec does not inherit these options from a base."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        options.update(frozen=True, kw_only=True, forbid_unknown_fields=True)
        return super().__new__(mcls, name, bases, namespace, **options)


class Record(msgspec.Struct, metaclass=_RecordMeta):
    """The base of every record."""


class Estimate(Record):
    """A value with its 95 % confidence interval, in the unit that the field's name states."""

    value: Number
    low: Number
    high: Number

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"value: {self.value} is not between low and high, {self.low} and {self.high}")


R = TypeVar("R")


def encode(record: Any) -> bytes:
    """Encode a record as one line of JSON."""
    return msgspec.json.encode(record)


def encode_pretty(record: Any) -> bytes:
    """Encode a record as indented JSON that ends in a newline, and that a terminal may show."""
    return visible_json(msgspec.json.format(msgspec.json.encode(record), indent=2).decode()).encode() + b"\n"


def decode(data: bytes | str, record_type: type[R], where: str) -> R:
    """Decode one record, strictly.

    Raises BadInput with `where` and the field if the JSON is not exactly a `record_type`.
    """
    try:
        record = msgspec.json.decode(data, type=record_type)
        json.loads(data, object_pairs_hook=_refuse_duplicates, parse_int=str, parse_float=str)
    except (msgspec.DecodeError, UnicodeDecodeError, _DuplicateKey) as error:
        raise BadInput(f"{where}: {explain(error, data)}") from None
    except RecursionError:
        raise BadInput(f"{where}: nested too deeply") from None
    return record


def explain(error: Exception, data: bytes | str = b"") -> str:
    """Return the message of a decoding error in plain words, after the full path of the field in the data."""
    message, _, where = str(error).partition(" - at `")
    path = where.rstrip("`").removeprefix("key in ").removeprefix("$").removeprefix(".")
    if message.startswith("JSON is malformed"):
        constant = fields.find(data, lambda value: isinstance(value, fields.Constant))
        message = f"Constant {constant[1]}" if constant else message
        path = constant[0] if constant else path
    elif path.endswith(ANY_KEY) and message.startswith("Expected `bool | int | float | str`"):
        odd = fields.find(data, fields.is_no_value, path.removesuffix(ANY_KEY) + ".")
        path = odd[0] if odd else path
    for pattern, words in PLAIN_WORDS:
        match = re.fullmatch(pattern, message, re.DOTALL)
        if match:
            return words(f"{path}." if path else "", f"{path}: " if path else "", match)
    return f"{path}: {message}" if path else message


TYPES = {
    "int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false", "array": "a list",
    "object": "an object",
}  # fmt: skip
ANY_KEY = "[...]"
"""How msgspec names a key of a mapping."""

COMPARISONS = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}

PLAIN_WORDS: tuple[tuple[str, Callable[[str, str, re.Match[str]], str]], ...] = (
    (r"JSON is malformed: (.*)", lambda _, at, match: f"not JSON: {match[1]}"),
    (r"Constant (.*)", lambda _, at, match: f"{at}{match[1]} is no number"),
    (r"Number out of range", lambda _, at, __: f"{at}larger than any number that is read"),
    (r"Invalid enum value (.*)", lambda _, at, match: f"{at}{shown(match[1])} is none of the values that it may have"),
    (r"Input data was truncated", lambda _, at, match: "not JSON: it ends too early"),
    (r"Object contains unknown field `(.*)`", lambda path, _, match: f"{path}{match[1]}: unknown field"),
    (r"Object missing required field `(.*)`", lambda path, _, match: f"{path}{match[1]}: it is missing"),
    (r"Expected `str` matching regex .*", lambda _, at, match: f"{at}must not be blank"),
    (r"Expected `array` of length >= (\d+)", lambda _, at, match: f"{at}must list at least {match[1]}"),
    (r"Expected `\w+` (>=|<=|>|<) (\S+)", lambda _, at, match: f"{at}must be {COMPARISONS[match[1]]} {match[2]}"),
    (r"Expected `(.*)`, got `(.*)`", lambda _, at, match: f"{at}must be {_types(match[1])}, not {_types(match[2])}"),
    (r"(\w+): (.*)", lambda path, _, match: f"{path}{match[1]}: {match[2]}"),
)
"""The messages of msgspec, and of the records' own checks, with what is said instead of the path and the message."""


def _types(names: str) -> str:
    return " or ".join(TYPES.get(name, name) for name in names.split(" | "))


class _DuplicateKey(ValueError):
    """A JSON object has a key twice. Parsers differ in which of the two values they keep."""


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise _DuplicateKey(f"duplicate key {key!r}")
        seen.add(key)


def read(path: Path, record_type: type[R]) -> R:
    """Read a record from a file.

    Raises BadInput with the path if the file is missing, unreadable or malformed.
    """
    return decode(read_file(path), record_type, str(path))


def read_json(path: Path, max_bytes: int = MAX_RECORD_BYTES) -> Any:
    """Read a JSON file of another program. Raises BadInput with the path if it is none."""
    try:
        content = json.loads(read_file(path, max_bytes))
        json.dumps(content, ensure_ascii=False).encode()  # a lone surrogate could not be written again
    except UnicodeEncodeError:
        raise BadInput(f"{path}: half a surrogate pair stands in a text") from None
    except ValueError as error:
        raise BadInput(f"{path}: not JSON: {error}") from None
    except RecursionError:
        raise BadInput(f"{path}: nested too deeply") from None
    return content


def fingerprint(values: Mapping[str, Any]) -> str:
    """Hash a mapping independently of its order, to 12 hexadecimal digits."""
    return hashlib.sha256(msgspec.json.encode(values, order="sorted")).hexdigest()[:12]

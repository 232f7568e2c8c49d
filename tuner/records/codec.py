"""The records that cross a process or a file, and their strict JSON.

Every record is a frozen msgspec struct: unknown keys, missing keys, wrong types and NaN are refused on reading, and
nothing but data can come out of a file. Units stand in the names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import msgspec

from tuner.errors import BadInput

Value = bool | int | float | str
Values = dict[str, Value]


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class _RecordMeta(msgspec.StructMeta):
    """Makes every record frozen, keyword-only and strict, which msgspec does not inherit from a base."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        options.update(frozen=True, kw_only=True, forbid_unknown_fields=True)
        return super().__new__(mcls, name, bases, namespace, **options)


class Record(msgspec.Struct, metaclass=_RecordMeta):
    """The base of every record."""


class Estimate(Record):
    """A value with its 95 % confidence interval, in the unit that the field's name states."""

    value: float
    low: float
    high: float


R = TypeVar("R")


def encode(record: Any) -> bytes:
    """One line of JSON."""
    return msgspec.json.encode(record)


def encode_pretty(record: Any) -> bytes:
    """JSON for people, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def decode(data: bytes | str, kind: type[R], where: str) -> R:
    """Read one record, strictly.

    Raises BadInput naming `where` and the field when the JSON is not exactly a `kind`.
    """
    try:
        record = msgspec.json.decode(data, type=kind)
        json.loads(data, object_pairs_hook=_refuse_duplicates, parse_int=str, parse_float=str)
    except (msgspec.DecodeError, UnicodeDecodeError, _DuplicateKey) as error:
        raise BadInput(f"{where}: {error}") from None
    except RecursionError:
        raise BadInput(f"{where}: nested too deeply") from None
    return record


class _DuplicateKey(ValueError):
    """An object of JSON has a key twice; readers differ in which one they take."""


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise _DuplicateKey(f"the key {key!r} stands there twice")
        seen.add(key)


def read(path: Path, kind: type[R]) -> R:
    """Read a record from a file; BadInput names the file when it is missing, unreadable or malformed."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    return decode(data, kind, str(path))


def fingerprint(values: Mapping[str, Any]) -> str:
    """A short stable hash of a mapping, independent of its order."""
    return hashlib.sha256(msgspec.json.encode(values, order="sorted")).hexdigest()[:12]

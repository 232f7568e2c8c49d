"""Read files that other versions of this package wrote in another format."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from tuner.errors import BadInput
from tuner.files import read_file
from tuner.records.codec import decode

R = TypeVar("R")


class OtherVersion(BadInput):
    """Another version wrote a file, and its fields have other names."""


class OldFile(msgspec.Struct):
    """What identifies a file of another version. A subclass adds the fields that only such a file has."""

    tuner_version: str = "0.1.0"


def read_versioned(path: Path, record_type: type[R], old: type[OldFile]) -> R:
    """Read a record from a file, and say what to do if another version wrote it.

    Raises BadInput with the path if the file is missing, unreadable, malformed or decodes as `old`.
    """
    return decode_versioned(path, read_file(path), record_type, old)


def decode_versioned(path: Path, data: bytes, record_type: type[R], old: type[OldFile]) -> R:
    """Decode the record that a file has as its content; see `read_versioned`."""
    try:
        return decode(data, record_type, str(path))
    except BadInput:
        version = _old_version(data, old)
        if version is None:
            raise
    raise OtherVersion(
        f"{path} was written by diffusion-tuner {version}, whose fields have other names; "
        "run the study again with this version, or load it with that one"
    )


def _old_version(data: bytes, old: type[OldFile]) -> str | None:
    try:
        version = msgspec.json.decode(data, type=old).tuner_version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return version[:40] if version.isprintable() else None

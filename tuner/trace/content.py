"""Reads the JSON of a trace from a file, and mends what exporters are known to get wrong."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tuner.errors import BadInput
from tuner.files import open_regular
from tuner.trace.events import ANY_EVENT, TraceFile

_MAX_BYTES = 1 << 30
_MAX_OBJECTS = 5_000_000
"""An event has two or three objects of some 300 bytes each, so this limit is 1.5 GB."""

_CHUNK = 1 << 24
_MAX_RATIO = 200
"""A file that packs more than a chunk tighter than this holds no trace: those are packed 10 to 40 times."""

_PIECE = 1 << 20
_MAX_MENDED_BYTES = 1 << 28
_MAX_CUTS = 4
"""The last event of an array that was cut off ends at one of its last closing braces."""

_GZIP, _ARCHIVE = b"\x1f\x8b", b"PK\x03\x04"
_ARRAY = re.compile(rb"\s*\[")
_MARK = b"\xef\xbb\xbf"
_NEXT_FIELD = (
    rb'\s*+,\s*+"(?:(?:ph|cat|name)": "|(?:pid|tid|ts|dur|id)": [-\d"]|args": \{|[A-Z][^"\n]*": [-\d"\[{])'
    rb"|[^\S\n]*+\n\s*+\}"
)
_INNER_QUOTE = rb'"(?!' + _NEXT_FIELD + rb")"
_QUOTES = re.compile(
    rb'("(?:name|Call stack|kernel)": ")([^"\n]*+' + _INNER_QUOTE + rb'(?:[^"\n]++|' + _INNER_QUOTE + rb')*+)"'
)
"""A text with quotes inside. It ends at the quote before the next field: torch 2.13 does not escape the others."""

_ESCAPE = re.compile(rb'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})?')
_MAX_ESCAPES = 1 << 20
_NOT_NUMBERS = [
    re.compile(rb"%b(?<=[\s:\[,-]%b)(?=\s*[,}\]])" % (word, word)) for word in (b"nan", b"NaN", b"inf", b"Infinity")
]
_NO_COMMA = re.compile(rb",(?=\s*[\]}])")
_SPACES = bytes(32 if code < 32 else code for code in range(256))
_NO_VALUE = re.compile(rb'("(?:correlation|bytes|ts|dur|pid|tid)"\s*:\s*)(?:null|(?:1\d{19}|9[3-9]\d{17})(?![\d.]))')
"""Also -1 as an unsigned number, which a signed one cannot hold."""

_EMPTY = re.compile(rb"\{\s*\}(?=\s*(?:\]|\Z))")
_MENDABLE = re.compile(r"malformed|codec|truncated|UTF-8|got `null`|field `ph`|<= 9223372036854775807", re.IGNORECASE)

_REMEDY = "; torch 2.13 does not escape quotes in names: export with export_chrome_trace(path, use_python_export=True)"


class Decoded(msgspec.Struct):
    """The content of a trace file. `notes` say what is not as it was written."""

    file: Any
    notes: tuple[str, ...] = ()


def read_bytes(path: Path) -> bytes | bytearray:
    """Read the JSON text of a trace, plain or gzipped. Raises BadInput if it is missing, truncated or too large."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            start = file.peek(4)
            if start.startswith(_ARCHIVE):
                raise BadInput(f"{path}: a zip archive; unpack it first")
            content = _unzip(file) if start.startswith(_GZIP) else _plain(file)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"{path}: {reason}") from None
    if content is None:
        raise BadInput(f"{path}: larger than {_MAX_BYTES >> 30} GiB uncompressed; trace fewer steps, without stacks")
    if _max_objects(content) > _MAX_OBJECTS:
        raise BadInput(f"{path}: more than {_MAX_OBJECTS:,} JSON objects; trace fewer steps, without stacks")
    return content


def _max_objects(content: bytes | bytearray) -> int:
    """Return an upper bound of the objects in a JSON text. Pieces that fit a cache make it faster than count()."""
    view = np.frombuffer(content, np.uint8)
    pieces = (view[start : start + _PIECE] for start in range(0, len(view), _PIECE))
    return sum(int(np.count_nonzero(piece == ord("{"))) for piece in pieces)


def _plain(file: BufferedReader) -> bytes | None:
    content = file.read(_MAX_BYTES + 1) if os.fstat(file.fileno()).st_size <= _MAX_BYTES else None
    return content if content is not None and len(content) <= _MAX_BYTES else None


def _unzip(packed: BufferedReader) -> bytearray | None:
    """Decompress a gzip file. Return None beyond the limit, which even a small file can exceed."""
    content = bytearray()
    most = min(_MAX_BYTES, max(_CHUNK, _MAX_RATIO * os.fstat(packed.fileno()).st_size))
    with gzip.open(packed) as file:
        while piece := file.read(_CHUNK):
            content += piece
            if len(content) > most:
                return None
    return content


def decode(data: bytes | bytearray, path: Path) -> Decoded:
    """Decode a trace: an object with `traceEvents`, or the array of events alone. Raises BadInput if it is neither."""
    try:
        return _decode_text(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        try:
            if len(data) > _MAX_MENDED_BYTES or not _MENDABLE.search(str(error)):
                raise
            return _decode_text(_mended(data))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise _not_a_trace(path, error, _REMEDY if b'"name": "' in data else "") from None


def _not_a_trace(path: Path, error: Exception, remedy: str = "") -> BadInput:
    return BadInput(f"{path}: not a trace: {str(error)[:300]}{remedy if 'malformed' in str(error) else ''}")


def _decode_text(data: bytes | bytearray) -> Decoded:
    # AMD's profiler writes sizes as text, which only a lax decoder takes for numbers.
    if not _ARRAY.match(data):
        return Decoded(msgspec.json.decode(data, type=TraceFile, strict=False))
    return _decode_array(data)


def _decode_array(data: bytes | bytearray) -> Decoded:
    """Decode the array form of the Chrome format, whose end may be missing."""
    text = bytes(data).rstrip().rstrip(b",")
    if text.endswith(b"]") or text == b"[":
        return Decoded(_file_of(text if text.endswith(b"]") else text + b"]"))
    try:
        return Decoded(_file_of(text + b"]"))
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        return _decode_cut(text, error)


def _decode_cut(text: bytes, error: msgspec.DecodeError) -> Decoded:
    for _ in range(_MAX_CUTS):
        end = text.rfind(b"}", 0, len(text) - 1) + 1
        if not end:
            break
        text = text[:end]
        try:
            return Decoded(_file_of(text + b"]"), ("the file's end: it is cut off in the middle of an event",))
        except msgspec.DecodeError:
            continue
    raise error


def _file_of(array: bytes) -> Any:
    return TraceFile(events=msgspec.json.decode(array, type=list[ANY_EVENT], strict=False))


# ---- mending --------------------------------------------------------------------------------------------------------


def _mended(data: bytes | bytearray) -> bytes:
    """Return the JSON that an exporter meant.

    Known faults: quotes in names, names that are not UTF-8, control characters, Windows paths, numbers that are not
    finite, numbers that are null or too large, commas or empty objects before a closing bracket, a byte order mark.
    """
    text = bytes(data).removeprefix(_MARK).decode("utf-8", "replace").encode()
    if text.count(b"\\") < _MAX_ESCAPES:
        text = _ESCAPE.sub(_escaped, text)
    text = _QUOTES.sub(_without_inner_quotes, text)
    text = _EMPTY.sub(b"", _NO_VALUE.sub(rb"\g<1>0", text))
    for word in _NOT_NUMBERS:
        text = word.sub(b"0", text)
    return _NO_COMMA.sub(b"", text).translate(_SPACES)


def _escaped(match: re.Match[bytes]) -> bytes:
    return match[0] if len(match[0]) > 1 else b"\\\\"


def _without_inner_quotes(match: re.Match[bytes]) -> bytes:
    return match[1] + match[2].replace(b'\\"', b'"').replace(b'"', b'\\"') + b'"'

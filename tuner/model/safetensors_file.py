"""Read the header of a safetensors file, and sample its weights, without torch and without loading them.

The format: 8 bytes with the length of the header, the header in JSON, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import math
import os
import re
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tuner.errors import BadInput
from tuner.files import open_regular
from tuner.model.json_file import LFS, loads, shown

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library."""

BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of an element. Types of less than a byte, and floats of later versions, are not checked."""

NEWER = re.compile(r"F[4-8]_?\w*|C\d+")

FLOATS = {"F32", "F16", "BF16"}
"""Types of weights that no quantization has packed, so that their shapes are those that a configuration gives."""

INFINITY = {
    "F64": ("<u8", 0x7FF << 52), "F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C), "F8_E4M3": ("u1", 0x7F),
}  # fmt: skip
"""Bits of an element without its sign from which on it is not finite, and the unsigned type that has them.

What is equal is infinite, what is more is NaN. F8_E4M3 has one NaN and no infinity.
"""

MASKS = re.compile(r"mask", re.IGNORECASE)
"""Tensors that hold infinity on purpose."""

SAMPLE_BYTES = 1 << 16


class Tensor(NamedTuple):
    """A tensor's entry in the header. `begin` and `end` count from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """The tensors of a file by name, and the offset of their bytes."""

    tensors: Mapping[str, Tensor]
    offset: int


def read_header(file: Path) -> Header:
    """Read and check the header of a file. Raises BadInput with the file, and the tensor if it is one's entry."""
    try:
        with os.fdopen(open_regular(file), "rb") as opened:
            size, start = os.fstat(opened.fileno()).st_size, opened.read(8)
            rest = opened.read(_header_bytes(file, start, size))
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror or error}") from None
    try:
        content = loads(rest)
    except (ValueError, RecursionError):
        raise BadInput(f"{file}: not a safetensors file, its header is not JSON; download it again") from None
    if not isinstance(content, dict):
        raise BadInput(f"{file}: not a safetensors file, its header is no JSON object; download it again")
    if not all(isinstance(value, str) for value in _metadata(file, content).values()):
        raise BadInput(f"{file}: __metadata__: it holds texts only; download the file again")
    tensors = {name: _tensor(file, name, entry) for name, entry in content.items() if name != "__metadata__"}
    _check_layout(file, tensors, size - 8 - len(rest))
    return Header(tensors, 8 + len(rest))


def _metadata(file: Path, content: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = content.get("__metadata__")
    if metadata is not None and not isinstance(metadata, dict):
        raise BadInput(f"{file}: __metadata__: it is no object; download the file again")
    return metadata or {}


def _header_bytes(file: Path, start: bytes, size: int) -> int:
    if size == 0:
        raise BadInput(f"{file}: the file is empty; download it again")
    if LFS.startswith(start):
        raise BadInput(f"{file}: a pointer of Git LFS instead of the weights; run git lfs pull in its folder")
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise BadInput(f"{file}: not a safetensors file, or cut short in its header; download it again")
    return int(length)


def _tensor(file: Path, name: str, entry: object) -> Tensor:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            is_valid = all(type(length) is int and length >= 0 for length in shape) and 0 <= begin <= end
            bytes_each = BYTES.get(dtype)
            is_valid = is_valid and (bytes_each is not None or NEWER.fullmatch(dtype) is not None)
            if is_valid and (bytes_each is None or math.prod(shape) * bytes_each == end - begin):
                return Tensor(dtype, tuple(shape), begin, end)
    raise BadInput(f"{file}: {shown(name)}: its shape, type and place do not agree; download the file again")


def _check_layout(file: Path, tensors: Mapping[str, Tensor], size: int) -> None:
    """Check that the tensors fill the file without gaps, as the safetensors library asks."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if tensor.begin != end:
            raise BadInput(f"{file}: {shown(name)}: overlaps another tensor or leaves a gap; download the file again")
        end = tensor.end
    if end != size:
        what = "cut short" if end > size else "longer than its header says"
        raise BadInput(f"{file}: {what}: {size:,} bytes of weights instead of {end:,}; download it again")


def check_samples(file: Path, header: Header, until: float) -> None:
    """Look for NaN and infinity at the start, in the middle and at the end of every tensor.

    Ends when `time.monotonic()` is `until`. The tensors are taken in an order that mixes the layers, so that what time
    allows is spread over the file. Raises BadInput with the file and the tensor.
    """
    with os.fdopen(open_regular(file), "rb") as opened:
        for name, tensor in sorted(header.tensors.items(), key=lambda item: zlib.crc32(item[0].encode())):
            for begin, count in _places(tensor) if tensor.dtype in INFINITY else ():
                if time.monotonic() > until:
                    return
                found = _not_finite(os.pread(opened.fileno(), count, header.offset + begin), tensor.dtype)
                if found == "NaN" or (found and not MASKS.search(name)):
                    raise BadInput(f"{file}: {shown(name)}: has weights that are {found}; download the file again")


def _places(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """Yield the offsets and lengths of the samples of a tensor, or of all of it if it is small."""
    size = tensor.end - tensor.begin
    if size <= 3 * SAMPLE_BYTES:
        yield tensor.begin, size
        return
    yield tensor.begin, SAMPLE_BYTES
    yield tensor.begin + size // 2 // 8 * 8, SAMPLE_BYTES
    yield tensor.end - SAMPLE_BYTES, SAMPLE_BYTES


def _not_finite(data: bytes, dtype: str) -> str | None:
    """Return what is in the data, NaN or infinite, or None."""
    import numpy as np

    (kind, infinity), size = INFINITY[dtype], BYTES[dtype]
    bits = np.frombuffer(data[: len(data) // size * size], kind)
    largest = int((bits & bits.dtype.type((1 << 8 * size - 1) - 1)).max(initial=0))
    if largest < infinity:
        return None
    return "NaN" if largest > infinity or dtype == "F8_E4M3" else "infinite"

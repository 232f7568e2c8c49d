"""The records of a package."""

from __future__ import annotations

from tuner.records.codec import Bytes, Count, Record


class Fingerprint(Record):
    """What compiled code was made on and with: it is used where all of this is the same.

    `instructions` is a hash of a CPU's instruction sets, None on a GPU. `libc` is the version of the C library that it
    was linked to, which here may be newer.
    """

    device: str
    device_name: str
    compute_capability: str | None
    instructions: str | None
    machine: str
    python: str
    libc: str
    libraries: dict[str, str | None]


class Package(Record):
    """A written package. Without compiled code there is a reason."""

    folder: str
    trial: Count
    files: tuple[str, ...]
    compiled_files: Count = 0
    compiled_bytes: Bytes = 0
    no_compiled_code_reason: str | None = None

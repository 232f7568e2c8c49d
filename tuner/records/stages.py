"""The log of a study's stages, a line of JSON for each: what each worker did when, for the account of the time."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tuner.errors import BadInput
from tuner.files import read_file
from tuner.records.codec import Count, NonNegative, Record, Seconds, decode

MAX_LOG_BYTES = 64 << 20
"""Half a million stages, which are weeks of the smallest builds."""

MAX_LINE_BYTES = 1000

REMEDY = "remove the file, only the account of the time is lost"

Who = Literal["study", "build", "repetition", "finalists"]

END = "end"
"""The stage of a worker that is gone, and of a run of the command that came to its end."""

DONE = "done"
"""The stage of a worker that has answered and has not said what it does next."""


STILL = "still"
"""The stage of a worker that goes on after it waited for its turn, or stood still during another's."""


class StageEntry(Record):
    """At `at_s`, in seconds that the study has used, `who` entered a stage.

    `number` is that of the trial, or of the repetition; several may run at a time. `point` is the index of the job's
    point that the stage is for; the baseline's others are the untouched build with other steps. A run of the command
    begins with an entry of the study itself, of the stage "run". `cpu_s` are the CPU seconds that its process has used
    by then. A worker that goes on has stood still for the last `still_s` seconds.
    """

    at_s: Seconds
    cpu_s: NonNegative
    who: Who
    stage: str
    number: Count = 0
    still_s: Seconds = 0.0
    point: Count = 0


def read_stages(path: Path) -> list[StageEntry]:
    """Read the log; none if there is no file. A last line without its end, which a crash tore, is left out.

    Raises BadInput with the line if the file is not such a log.
    """
    if not path.exists():
        return []
    *lines, torn = read_file(path, MAX_LOG_BYTES).split(b"\n")
    if torn[:1] not in (b"", b"{") or len(torn) > MAX_LINE_BYTES:
        raise BadInput(f"{path}: line {len(lines) + 1}: not a stage; {REMEDY}")
    entries: list[StageEntry] = []
    for number, line in enumerate(lines, start=1):
        entries.append(_decode(line, f"{path}: line {number}", entries[-1] if entries else None))
    return entries


def _decode(line: bytes, where: str, before: StageEntry | None) -> StageEntry:
    """Decode a line and check it against the one before."""
    try:
        entry = decode(line, StageEntry, where)
    except BadInput as error:
        raise BadInput(f"{error}; {REMEDY}") from None
    if entry.stage != "run" and (before is None or entry.at_s < before.at_s):
        raise BadInput(f"{where}: at_s: {entry.at_s} is before the line above it, or nothing is; {REMEDY}")
    return entry

"""Finds the folder that `tune board` shows and starts TensorBoard's process."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tuner.errors import BadInput, Unavailable, did_you_mean
from tuner.execution import python
from tuner.files import absent, kind_at, read_file, require_own_tree, require_regular, resolved

PORTS = range(6006, 6026)
"""TensorBoard's usual port and those tried after it."""

MAX_TICKED = 40
"""With more runs TensorBoard ticks none, and its pages of images and texts stay empty until the user does."""

STUDY_RUN = "study"
"""The run, beside the trials', with the result of the study."""

HOST = "127.0.0.1"
SHOWN = ("events.out.tfevents.*", "*.pt.trace.json", "*.pt.trace.json.gz")
"""The files that make a folder one that TensorBoard can show."""


def find_log_folder(study: str | None, studies: Path) -> Path:
    """Find a log folder by a path or a study's name in the folder `studies`; without either the newest study's.

    Raises BadInput if there is none.
    """
    if study is None:
        return newest_study(studies)
    for folder in (Path(study), studies / study):
        if folder.is_dir():
            return log_folder(folder)
    raise no_such_study(study, studies)


def no_such_study(study: str, studies: Path, needs: str = "study.json") -> BadInput:
    """Make the error for a study that is not there. `needs` is what its folder would have."""
    similar = did_you_mean(study, [folder.name for folder in studies_in(studies)])
    problem = f"this folder has no {needs}" if kind_at(study) == "a folder" else absent(study, "study")
    hint = f"{similar} `tune list --out {studies}` lists the studies".strip()
    return BadInput(f"{study}: {problem}; {hint}")


def newest(studies: Path) -> Path:
    """Return the folder of the study that ran last. Raises BadInput if there is none."""
    if kind_at(studies) not in (None, "a folder"):
        raise BadInput(f"{studies}: {absent(studies, 'folder')}")
    made = studies_in(studies)
    if not made:
        raise BadInput(f"{studies}: no study in there; `tune run` makes one")
    return max(made, key=lambda folder: (folder / "trials").stat().st_mtime)


def newest_study(studies: Path) -> Path:
    """Return the log folder of the study that ran last."""
    return log_folder(newest(studies))


def studies_in(studies: Path) -> list[Path]:
    """Return the studies in a folder, by name."""
    return sorted(file.parent for file in studies.glob("*/study.json") if (file.parent / "trials").is_dir())


def log_folder(folder: Path) -> Path:
    """Return a study's trials, the newest study's in a folder of studies, any other folder as it is."""
    if (folder / "trials").is_dir():
        require_own_tree(folder)
        folder = folder / "trials"
    elif studies_in(folder):
        return newest_study(folder)
    shown = [file for pattern in SHOWN for file in folder.rglob(pattern)]
    if not shown:
        raise BadInput(f"{folder}: nothing to show yet, neither trials nor traces")
    for file in shown:
        require_regular(file, file.stat().st_mode)
    return resolved(folder)


def free_port(wanted: int | None) -> int:
    """Return the port wanted, or the first free one of the usual ones. Raises BadInput if it is taken."""
    for port in [wanted] if wanted is not None else PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    if wanted is not None:
        raise BadInput(f"--port {wanted}: taken or not allowed on {HOST}; without --port a free one is found")
    raise BadInput(f"the ports {PORTS[0]} to {PORTS[-1]} are all taken: give one with --port")


@contextmanager
def serve(folder: Path, port: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run TensorBoard within the context; yields its address and process. It ends with this process in any case."""
    with TemporaryDirectory(prefix="tune-board-") as scratch, (Path(scratch) / "log").open("w+") as log:
        process = subprocess.Popen(
            [*python.command("tuner.board.server"), str(folder), str(port), scratch],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
            env=python.environment() | {"TMPDIR": scratch},
        )  # fmt: skip
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                address = process.stdout.readline().strip()
                if not address:
                    log.seek(0)
                    raise Unavailable(
                        f"TensorBoard did not start: {(log.read().strip() or 'no message').splitlines()[-1]}"
                    )
                yield address, process
            finally:
                process.stdin.close()


def guide(folder: Path, address: str) -> str:
    """Return the addresses of TensorBoard's pages, as the command prints them."""
    traces, ticked = sum(1 for _ in folder.rglob("*.pt.trace.json*")), ticks(folder)
    tabs = {
        "": "all trials in a table: sort by any column, filter by any knob or status; scatter plots",
        "#images": "cost against quality, strips of the finalists, images beside the baseline's",
        "#text": "the conclusion, what the gate found, and why trials failed",
        "#timeseries": "each metric by trial",
        "#pytorch_profiler": f"{traces} traces: overview, operators, kernels, time line",
    }
    lines = [f"{address + tab:<42} {what}" for tab, what in tabs.items()]
    if ticked:
        lines += ["of so many trials it shows none until they are ticked at its left; with the result's trials ticked:"]
        lines += [f"{address}#{tab}&runSelectionState={ticked}" for tab in ("images", "text")]
    return "\n".join([f"TensorBoard shows {folder}; Ctrl-C ends it", *lines])


def ticks(folder: Path) -> str:
    """Return the part of an address that ticks baseline, front and chosen trial; empty for a study of few trials."""
    runs = {file.parent.name for file in folder.glob("*/events.out.tfevents.*")}
    try:
        best = json.loads(read_file(folder.parent / "best_config.json"))
        points = [best["baseline"], best["chosen"], *best["front"]]
        result = {STUDY_RUN, *(f"{point['trial']:04d}" for point in points)} & runs
    except (BadInput, ValueError, KeyError, TypeError):
        return ""
    chosen = json.dumps(dict.fromkeys(sorted(result), True)).encode()
    chosen += b" " * (-len(chosen) % 3)  # an equals sign at its end would end the address's value
    return base64.b64encode(chosen).decode() if len(runs) > MAX_TICKED else ""

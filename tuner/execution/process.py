"""The parent's half of a trial: spawn the worker, hold it to its deadlines, kill its group, name its failure."""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import psutil

from tuner.files import atomic_write
from tuner.records.codec import encode_pretty
from tuner.records.outcome import Failure
from tuner.records.protocol import (
    Alive,
    BuildDone,
    Job,
    Message,
    PointDone,
    PointFailed,
    StageStarted,
    WorkerFailed,
    decode_message,
)

DEADLINES_S = {
    "start": 120.0,
    "load": 1800.0,
    "apply": 300.0,
    "compile": 900.0,
    "warm up": 1200.0,
    "trace": 1200.0,
    "probe": 300.0,
    "time": 1200.0,
    "score": 1200.0,
    "vary": 1200.0,
}
"""How long a worker may stay in a stage, or between two calls of the pipeline in it, before it counts as hung."""

WORKER: tuple[str, ...] = (sys.executable, "-m", "tuner.worker")
"""The program that is started for each build."""

MARK = "TUNER_WORKER"
"""The environment variable by which all that a worker started is found again, whoever has adopted it."""

TICK_S = 0.2


class BudgetSpent(Exception):
    """The study's time ran out while a worker was running; the worker was killed."""


def run(
    job: Job,
    folder: Path,
    cache: Path,
    stop_at: Callable[[], float],
    on_message: Callable[[Message], None],
    compile_deadline_s: float = math.inf,
) -> None:
    """Run one worker to its end. Every message reaches `on_message`; the last one is a WorkerFailed if it failed.

    `folder` takes the job and the worker's log, `cache` its compiled code. `stop_at` says at which time.monotonic()
    the worker is killed and BudgetSpent raised. `compile_deadline_s` shortens that stage's deadline. On any way out no
    process of the worker's is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "job.json", encode_pretty(job))
    mark = uuid.uuid4().hex
    reading, writing = os.pipe()
    with (folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [*WORKER, str(folder / "job.json"), str(writing)],
            stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=(writing,), start_new_session=True,
            env=worker_environment(cache) | {MARK: mark},
        )  # fmt: skip
    os.close(writing)
    try:
        deadlines = DEADLINES_S | {"compile": min(DEADLINES_S["compile"], compile_deadline_s)}
        _listen(job, process, reading, deadlines, stop_at, on_message)
    finally:
        kill(process, mark)
        os.close(reading)


def worker_environment(cache: Path) -> dict[str, str]:
    """The parent's environment, with the compilers' caches inside the study and quiet libraries."""
    return {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _listen(
    job: Job,
    process: subprocess.Popen[bytes],
    reading: int,
    deadlines: Mapping[str, float],
    stop_at: Callable[[], float],
    on_message: Callable[[Message], None],
) -> None:
    """Pass messages on until the worker ends, a stage outlasts its deadline, or the budget ends."""
    stage, entered = "start", time.monotonic()
    awaited = {point.index for point in job.points}
    for line in _lines(process, reading):
        now = time.monotonic()
        message = None if line is None else _understand(line, stage)
        if isinstance(message, StageStarted):
            stage, entered = message.stage, now
        elif isinstance(message, Alive):
            entered = now
        elif isinstance(message, (PointDone, PointFailed)):
            awaited.discard(message.index)
        elif isinstance(message, WorkerFailed) or (isinstance(message, BuildDone) and not goes_on(job, message)):
            awaited.clear()
        if message is not None:
            on_message(message)
        elif now >= stop_at():
            raise BudgetSpent
        elif now >= entered + deadlines[stage]:
            late = f"still in stage {stage!r} after {deadlines[stage]:.0f} s"
            on_message(WorkerFailed(failure=Failure(kind="timeout", stage=stage, message=late)))
            return
    code = process.wait()
    if awaited:
        on_message(WorkerFailed(failure=name_death(code, stage)))


def goes_on(job: Job, message: BuildDone) -> bool:
    """Whether the worker measures the points of a build: not when the gate did not let it pass."""
    verdict = message.build.verdict
    return job.is_baseline or verdict is None or verdict.status == "clean"


def _lines(process: subprocess.Popen[bytes], reading: int) -> Iterator[bytes | None]:
    """What the worker writes until it ends, and None whenever it has been silent for a moment.

    The end of the process ends them, not the end of the pipe: a grandchild may hold that open.
    """
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        while True:
            ended = process.poll() is not None
            if not selector.select(0.0 if ended else TICK_S):
                if ended:
                    return
                yield None
                continue
            data = os.read(reading, 1 << 16)
            if not data:
                selector.unregister(reading)
            *lines, buffer = (buffer + data).split(b"\n")
            yield from lines


def _understand(line: bytes, stage: str) -> Message:
    """The message on a line; a failure if it is none, as when a figure came out as NaN."""
    try:
        return decode_message(line)
    except msgspec.DecodeError as error:
        said = f"the worker said what is no message ({error}): {line[:80]!r}"
        return WorkerFailed(failure=Failure(kind="error", stage=stage, message=said))


def name_death(code: int, stage: str) -> Failure:
    """What a worker died of that could not say so itself."""
    if code >= 0:
        return Failure(kind="crash", stage=stage, message=f"the worker exited with code {code} without a word")
    name = signal.Signals(-code).name
    hint = "; the system kills with it when memory runs out" if name == "SIGKILL" else ""
    return Failure(kind="crash", stage=stage, message=f"the worker died of {name}{hint}")


def kill(process: subprocess.Popen[bytes], mark: str) -> None:
    """End a worker and everything that it started, in its group or out of it, adopted or not."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for other in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if other.environ().get(MARK) == mark:
                other.kill()
    if process.stdin is not None:
        process.stdin.close()
    process.wait()

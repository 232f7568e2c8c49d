"""How a worker process is started: afresh, as a program of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from tuner.execution import python

WORKER: tuple[str, ...] = python.command("tuner.worker")
"""The program that is started for each job."""

MARK = "TUNER_WORKER"
"""The environment variable by which what a worker started is found again, whoever has adopted it. A process that was
forked without a program of its own has the mark of the one that forked it."""


@dataclass(frozen=True)
class Place:
    """Where workers run: on which GPU, by its UUID, and on which cores. By default where this process may."""

    gpu: str | None = None
    cores: frozenset[int] = frozenset()

    @property
    def uuids(self) -> list[str]:
        """The UUIDs of its GPUs: several where they compute one image together."""
        return self.gpu.split(",") if self.gpu else []

    @contextlib.contextmanager
    def pinned(self) -> Iterator[None]:
        """Let processes that this thread starts meanwhile run on these cores only, with all that they start."""
        before = os.sched_getaffinity(0) if self.cores else set()
        try:
            if self.cores:
                os.sched_setaffinity(0, self.cores)
            yield
        finally:
            if before:
                os.sched_setaffinity(0, before)


ANYWHERE = Place()

TURN = b"1"
"""What a worker reads from its lifeline when it is granted a turn."""

UNKNOWN_EXIT = -1000
"""The exit code of a worker whose end nobody saw."""


@dataclass(frozen=True)
class Start:
    """What a worker process is started with: its job's file, the pipe for its messages, its log, and its mark."""

    job: Path
    messages: int
    log: int
    mark: str


class StartedProcess(Protocol):
    """A process that was started, and the lifeline that ends it when it closes."""

    @property
    def pid(self) -> int | None:
        """The number of the process and of its process group; None before it runs."""
        ...

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while the process runs."""
        ...

    def grant(self) -> None:
        """Grant the worker a turn: a byte on its lifeline."""
        ...

    def release(self) -> None:
        """Close the lifeline of a process that was killed, and wait until the process is gone."""
        ...


class Launcher(Protocol):
    """Starts worker processes."""

    start_limit_s: float
    """How long a worker may take until it enters its first stage."""

    def start(self, start: Start) -> StartedProcess:
        """Start a worker process in a session of its own and return at once."""
        ...

    def close(self) -> None:
        """End what was kept for starting workers."""
        ...


class FreshProcess(StartedProcess):
    """A worker that runs as a program of its own. Its standard input is the lifeline."""

    def __init__(self, start: Start, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [*WORKER, str(start.job), str(start.messages)],
            stdin=subprocess.PIPE, stdout=start.log, stderr=start.log, pass_fds=(start.messages,),
            start_new_session=True, env={**environment, MARK: start.mark}, bufsize=0,
        )  # fmt: skip

    @property
    def pid(self) -> int | None:
        return self.process.pid

    def poll(self) -> int | None:
        return self.process.poll()

    def grant(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its end is noticed elsewhere
            self.process.stdin.write(TURN)

    def release(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


class FreshLauncher(Launcher):
    """Starts each worker as a program of its own, which imports its libraries and loads its weights itself."""

    start_limit_s = 120.0

    def __init__(self, cache: Path, place: Place = ANYWHERE) -> None:
        self.cache = cache
        self.place = place

    def start(self, start: Start) -> StartedProcess:
        with self.place.pinned():
            return FreshProcess(start, worker_environment(self.cache, self.place))

    def close(self) -> None:
        """Do nothing: nothing was kept."""


def kill_marked(mark: str) -> None:
    """Kill every process that was started with this mark in its environment."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark:
                process.kill()


def worker_environment(cache: Path, place: Place = ANYWHERE) -> dict[str, str]:
    """Return the parent's environment, with the compilers' caches inside the study, one GPU, and quiet libraries."""
    return {
        **python.environment(),
        **({"CUDA_VISIBLE_DEVICES": place.gpu} if place.gpu else {}),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONUNBUFFERED": "1",
    }

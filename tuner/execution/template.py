"""Workers from a template: a process that has imported the libraries and read the weights, and forks for each job."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil

from tuner.execution import python
from tuner.execution.launch import (
    ANYWHERE,
    MARK,
    TURN,
    UNKNOWN_EXIT,
    FreshLauncher,
    Launcher,
    Place,
    Start,
    StartedProcess,
    kill_marked,
    worker_environment,
)
from tuner.records.protocol import Forked, ForkRequest, TemplateMessage, WorkerEnded

TEMPLATE: tuple[str, ...] = python.command("tuner.worker.template")
"""The program of the template."""

RELEASE_S = 10.0
"""How long a killed worker may take to leave the GPU."""

REPORT_S = 5.0
"""How long a template that has forked before may take to fork a worker that is cancelled meanwhile, and report it."""

MAX_MESSAGE_BYTES = 1 << 16


def make_launcher(cache: Path, log: Path, place: Place = ANYWHERE) -> Launcher:
    """Return the quickest launcher that works on this system. `log` takes what the template reports."""
    return TemplateLauncher(cache, log, place) if sys.platform == "linux" else FreshLauncher(cache, place)


class Template:
    """The template process, and what it reported of the workers that it forked."""

    def __init__(self, start: Start, cache: Path, log: Path, place: Place) -> None:
        """Start the template for jobs like that of `start`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.mark = uuid.uuid4().hex
        environment = worker_environment(cache, place) | {
            MARK: self.mark,
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking whether there is a GPU must not start CUDA before a fork
            "OPENBLAS_NUM_THREADS": "1",  # a process with threads must not be forked
        }
        with theirs, log.open("ab") as file, place.pinned():
            self.process = subprocess.Popen(
                [*TEMPLATE, str(theirs.fileno()), str(start.job)], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                pass_fds=(theirs.fileno(),), start_new_session=True, env=environment,
            )  # fmt: skip
        self.socket = ours
        self.socket.setblocking(False)
        self.pids: dict[str, int] = {}
        """By the mark of a worker."""
        self.codes: dict[str, int] = {}
        """Exit codes of the workers that have ended, by mark."""
        self.started_at = time.monotonic()
        self.given_up_at: float | None = None
        """When it was killed because of a worker that it had not reported."""

    def request(self, start: Start, lifeline: int) -> None:
        """Ask for a worker. Raises OSError if the template is gone."""
        message = msgspec.json.encode(ForkRequest(job=str(start.job), mark=start.mark))
        socket.send_fds(self.socket, [message], [start.messages, start.log, lifeline])

    def read(self) -> None:
        """Take note of what the template has reported."""
        with contextlib.suppress(OSError):  # nothing to read, or the template is gone
            while data := self.socket.recv(MAX_MESSAGE_BYTES):
                message: TemplateMessage = msgspec.json.decode(data, type=TemplateMessage)
                if isinstance(message, Forked):
                    self.pids[message.mark] = message.pid
                elif isinstance(message, WorkerEnded):
                    self.codes[message.mark] = message.code

    @property
    def is_alive(self) -> bool:
        """Whether the template can be asked for workers."""
        return self.process.poll() is None

    def await_pid(self, mark: str) -> int | None:
        """Return a worker's process id, after a wait for its report if the template forks by now, or None."""
        until = time.monotonic() + REPORT_S
        self.read()
        while mark not in self.pids and self.pids and self.is_alive and time.monotonic() < until:
            time.sleep(0.01)
            self.read()
        return self.pids.get(mark)

    def give_up(self) -> None:
        """Close the template, which has not reported a worker that is cancelled."""
        if self.is_alive:
            self.given_up_at = time.monotonic()
        self.close()

    def close(self) -> None:
        """Kill the template and everything that it forked, the holder of the weights among it."""
        self.socket.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        kill_marked(self.mark)


class ForkedProcess(StartedProcess):
    """A worker that was requested from a template. It starts afresh if the template dies before the fork."""

    def __init__(self, template: Template, start: Start, start_afresh: Callable[[Start], StartedProcess]) -> None:
        self.template = template
        self.mark = start.mark
        self.fresh: StartedProcess | None = None
        self.kept: Start | None = Start(start.job, os.dup(start.messages), os.dup(start.log), start.mark)
        """What is needed to start afresh, until the template has forked the worker."""
        self.start_afresh = start_afresh
        read, writing = os.pipe()
        self.lifeline: int | None = writing
        try:
            template.request(start, read)
        except OSError:
            self._start_afresh()
        finally:
            os.close(read)

    @property
    def pid(self) -> int | None:
        if self.fresh is not None:
            return self.fresh.pid
        return self.template.pids.get(self.mark)

    def poll(self) -> int | None:
        if self.fresh is None:
            was_alive = self.template.is_alive
            self.template.read()
            if self.pid is not None:
                self._forget_start()
                return self._code(was_alive)
            if was_alive:
                return None
            self._start_afresh()
        assert self.fresh is not None
        return self.fresh.poll()

    def grant(self) -> None:
        if self.fresh is not None:
            self.fresh.grant()
        elif self.lifeline is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self.lifeline, TURN)

    def release(self) -> None:
        self._forget_start()
        self._close_lifeline()
        if self.fresh is not None:
            self.fresh.release()
            return
        if self.pid is None and not self._kill_late():  # the template hangs, or has forked nothing yet
            self.template.give_up()
            return
        until = time.monotonic() + RELEASE_S
        while self.pid is not None and self.poll() is None and time.monotonic() < until:
            time.sleep(0.01)

    def _kill_late(self) -> bool:
        """Kill a worker that was not known when it should have been killed. Returns whether it is known now."""
        pid = self.template.await_pid(self.mark)
        if pid is not None and self.poll() is None:
            for kill in (os.killpg, os.kill):  # it may not lead a group of its own yet
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    kill(pid, signal.SIGKILL)
            kill_marked(self.mark)
        return pid is not None

    def _code(self, is_template_alive: bool) -> int | None:
        """Return the exit code. Of a worker that outlived its template, only whether it runs is known."""
        code = self.template.codes.get(self.mark)
        if code is not None or is_template_alive:
            return code
        return None if _runs(self.template.pids[self.mark]) else UNKNOWN_EXIT

    def _close_lifeline(self) -> None:
        if self.lifeline is not None:
            os.close(self.lifeline)
            self.lifeline = None

    def _start_afresh(self) -> None:
        if self.kept is not None:
            self._close_lifeline()
            self.template.close()  # with a worker that it has forked but did not report any more
            self.fresh = self.start_afresh(self.kept)
            self._forget_start()

    def _forget_start(self) -> None:
        if self.kept is not None:
            os.close(self.kept.messages)
            os.close(self.kept.log)
            self.kept = None


class TemplateLauncher(Launcher):
    """Starts workers from a template, which it starts with the first one.

    A template that is gone is replaced, unless it died by itself or hung before it ever forked a worker: then workers
    start afresh from there on.
    """

    start_limit_s = 1800.0  # the template reads the weights meanwhile, and may have to fetch them

    def __init__(self, cache: Path, log: Path, place: Place = ANYWHERE) -> None:
        self.cache = cache
        self.log = log
        self.place = place
        self.afresh = FreshLauncher(cache, place)
        self.template: Template | None = None

    def start(self, start: Start) -> StartedProcess:
        if self.template is not None and not self.template.is_alive:
            if self._is_unfit(self.template):
                return self.afresh.start(start)
            self.close()
        if self.template is None:
            self.template = Template(start, self.cache, self.log, self.place)
        return ForkedProcess(self.template, start, self.afresh.start)

    def _is_unfit(self, template: Template) -> bool:
        """Return whether a template that is gone could not fork workers, or took too long to begin."""
        if template.pids:
            return False
        return template.given_up_at is None or template.given_up_at - template.started_at >= self.start_limit_s

    def close(self) -> None:
        if self.template is not None:
            self.template.close()
            self.template = None


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False

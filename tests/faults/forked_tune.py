"""Commands of `tune`, forked from a process that has imported what they need: that takes longer than most of them run.

Run as a program with the number of a socket, this is that process. `Commands` starts it and asks it for commands.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LIBRARIES = (
    "optuna.storages._rdb.storage", "optuna.storages._rdb.models", "optuna.artifacts._filesystem", "sqlalchemy.orm",
    "sqlalchemy.dialects.sqlite", "alembic.command", "alembic.config", "alembic.migration", "scipy.stats",
    "scipy.special", "PIL.Image", "jinja2", "tuner.commands.checks", "tuner.commands.requests", "tuner.commands.notes",
    "tuner.model.call_limits", "tuner.space.reader", "tuner.study.loop", "tuner.search.agent.agent",
    "tuner.search.agent.sampler", "tuner.tracking.trackers", "tuner.report.live", "tuner.report.running",
    "tuner.report.silent", "tuner.report.written", "tuner.report.renderers.html", "tuner.board.trial_events",
    "tuner.hardware.telemetry",
)  # fmt: skip
MAX_REQUEST_BYTES = 1 << 17
REAP_S = 0.02


class TuneProcess:
    """A command that runs: of `subprocess.Popen` what tests use."""

    def __init__(self, commands: Commands, pid: int, arguments: list[str], stdout: int, stderr: int) -> None:
        self.commands = commands
        self.pid = pid
        self.args = arguments
        self.returncode: int | None = None
        self.outputs = os.fdopen(stdout), os.fdopen(stderr)

    def poll(self) -> int | None:
        """The exit code, negative for a signal, or None while it runs."""
        if self.returncode is None:
            self.returncode = self.commands.exit_code(self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, which was not reported yet
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 480.0) -> tuple[str, str]:
        """What it wrote to standard output and to standard error, once it has ended."""
        deadline = time.monotonic() + timeout
        written = [b"", b""]
        unread = {file.fileno(): index for index, file in enumerate(self.outputs) if not file.closed}
        while unread:
            ready, _, _ = select.select(list(unread), [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired(self.args, timeout)
            for descriptor in ready:
                data = os.read(descriptor, 1 << 16)
                written[unread[descriptor]] += data
                if not data:
                    self.outputs[unread.pop(descriptor)].close()
        while self.poll() is None:
            time.sleep(REAP_S)
        return written[0].decode(), written[1].decode()


class Commands:
    """The process from which commands are forked."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # a process with threads must not be forked
            )  # fmt: skip
        self.codes: dict[int, int] = {}

    def start(self, arguments: list[str], environment: dict[str, str]) -> TuneProcess:
        request = {"arguments": arguments, "environment": environment, "folder": str(Path.cwd())}
        stdout, their_stdout = os.pipe()
        stderr, their_stderr = os.pipe()
        socket.send_fds(self.socket, [json.dumps(request).encode()], [their_stdout, their_stderr])
        os.close(their_stdout)
        os.close(their_stderr)
        while (message := self._read())["is"] != "started":
            continue
        self.codes.pop(message["pid"], None)
        return TuneProcess(self, message["pid"], arguments, stdout, stderr)

    def exit_code(self, pid: int) -> int | None:
        while select.select([self.socket], [], [], 0.0)[0]:
            self._read()
        return self.codes.get(pid)

    def close(self) -> None:
        self.socket.close()
        self.process.wait(30)

    def _read(self) -> dict[str, Any]:
        data = self.socket.recv(MAX_REQUEST_BYTES)
        assert data, "the process that forks commands has ended"
        message: dict[str, Any] = json.loads(data)
        if message["is"] == "ended":
            self.codes[message["pid"]] = message["code"]
        return message


def serve(channel: socket.socket) -> dict[str, Any] | None:
    """Fork for each request; in the new process this returns the request. None when nobody asks any more."""
    running: set[int] = set()
    while True:
        if select.select([channel], [], [], REAP_S if running else None)[0]:
            data, descriptors, _, _ = socket.recv_fds(channel, MAX_REQUEST_BYTES, 2)
            if not data:
                return None
            pid = os.fork()
            if pid == 0:
                channel.close()
                for descriptor, place in zip(descriptors, (1, 2), strict=True):
                    os.dup2(descriptor, place)
                    os.close(descriptor)
                return dict(json.loads(data))
            for descriptor in descriptors:
                os.close(descriptor)
            running.add(pid)
            channel.send(json.dumps({"is": "started", "pid": pid}).encode())
        while running and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            running.remove(ended[0])
            code = os.waitstatus_to_exitcode(ended[1])
            with contextlib.suppress(OSError):
                channel.send(json.dumps({"is": "ended", "pid": ended[0], "code": code}).encode())


def main() -> int:
    import sabotaged_tune

    for name in LIBRARIES:
        importlib.import_module(name)
    sys.modules["PIL.Image"].init()
    gc.collect()
    gc.freeze()
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    if request is None:
        return 0
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115  (they stay open as long as the process)
    return sabotaged_tune.main(request["arguments"])


if __name__ == "__main__":
    sys.exit(main())

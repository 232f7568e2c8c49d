"""The node's half of an executor: jobs of one device in a thread, between the parent's commands and its events."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import traceback
from pathlib import Path
from selectors import EVENT_READ
from typing import NamedTuple

from tuner.execution.executor import Ended, Handle, StoodStill
from tuner.execution.local import LocalExecutor
from tuner.execution.ray.shipping import Written
from tuner.records.codec import encode
from tuner.records.outcome import Device
from tuner.records.protocol import (
    Alive,
    CallTimed,
    Job,
    Message,
    PointFailed,
    StageStarted,
    TurnEnded,
    TurnWanted,
    WorkerFailed,
)  # fmt: skip

Event = tuple[str, bytes | float | None, dict[str, bytes]]
"""The id of a job, its message as JSON, the seconds that it stood still, or None at its end, and files it wrote."""

WITHOUT_FILES = (StageStarted, Alive, CallTimed, TurnWanted, TurnEnded, StoodStill)
"""What is reported while files may be being written."""


class Command(NamedTuple):
    """What the parent wants done: to "submit", "provide" or "cancel" a job."""

    kind: str
    name: str
    job: Job | None = None


class Session:
    """Runs jobs until it is closed or fails.

    Commands are numbered from 0, since two calls of an actor may overtake each other.
    What workers write below `root` is sent to the parent.
    """

    def __init__(self, executor: LocalExecutor, root: Path) -> None:
        self.executor = executor
        self.device: Device = executor.devices[0]
        self.root = root
        self.handles: dict[str, Handle] = {}
        self.names: dict[str, str] = {}
        """The parent's names of jobs by their handles' ids."""
        self.written: dict[str, Written] = {}
        self.waiting: list[Command] = []
        """Jobs that wait until the device is free, as another has it to itself."""
        self.commands: dict[int, Command] = {}
        self.commands_run = 0
        self.events: list[Event] = []
        self.holder: str | None = None
        """The job that has the device to itself."""
        self.reported_holder: str | None = None
        self.is_closed = False
        self.problem = ""
        self.changed = threading.Condition()
        self.wake_up_read, self.wake_up_write = os.pipe()
        executor.selector.register(self.wake_up_read, EVENT_READ)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    # ---- called by the actor's methods -----------------------------------------------------------------------------

    def post(self, number: int, command: Command) -> None:
        """Take a command."""
        with self.changed:
            self.commands[number] = command
            self._wake()

    def collect(self) -> tuple[list[Event], str | None]:
        """Wait for events, and return them with the id of the job that has the device to itself.

        Returns at once if the session is closed. Raises RuntimeError if it has failed.
        """
        with self.changed:
            self.changed.wait_for(
                lambda: self.events or self.reported_holder != self.holder or self.is_closed or self.problem
            )
            if self.problem:
                raise RuntimeError(self.problem)
            events, self.events, self.reported_holder = self.events, [], self.holder
            return events, self.holder

    def fail(self, problem: str) -> None:
        """Kill what runs: this node is of no use, whatever the job."""
        with self.changed:
            self.problem, self.is_closed = problem, True
            self._wake()

    def close(self) -> None:
        """Kill what still runs."""
        with self.changed:
            self.is_closed = True
            self._wake()
        self.thread.join()
        os.close(self.wake_up_read)
        os.close(self.wake_up_write)

    def _wake(self) -> None:
        os.write(self.wake_up_write, b"1")
        self.changed.notify_all()

    # ---- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with self.executor:
                while not self.is_closed:
                    self._run_commands()
                    for handle, event in self.executor.wait(self._until):
                        self._report(handle, event)
                        self._run_commands()
                    self._note_holder()
                    with self.changed:
                        self.changed.wait_for(lambda: self._has_work() or bool(self.executor.running))
        except BaseException:
            with self.changed:
                self.problem = self.problem or traceback.format_exc()
                self.changed.notify_all()

    def _has_work(self) -> bool:
        return self.is_closed or self.commands_run in self.commands

    def _until(self) -> float:
        """Return when to stop waiting: at once if there is something to do."""
        return 0.0 if self._has_work() else float("inf")

    def _run_commands(self) -> None:
        """Do what the parent wants, and start what waits where the device is free."""
        while not self.is_closed and (command := self.commands.pop(self.commands_run, None)) is not None:
            self.commands_run += 1
            os.read(self.wake_up_read, 1)
            if command.kind == "submit":
                self.waiting.append(command)
            else:
                {"provide": self._provide, "cancel": self._cancel}[command.kind](command)
        while self.waiting and self.executor.free():
            self._submit(self.waiting.pop(0))
        self._note_holder()

    def _submit(self, command: Command) -> None:
        assert command.job is not None
        handle = self.executor.submit(command.job, self.device)
        self.handles[command.name], self.names[handle.id] = handle, command.name
        self.written[handle.id] = Written(self.root, Path(command.job.points[0].folder))

    def _provide(self, command: Command) -> None:
        handle = self.handles.get(command.name)
        if handle is not None and handle.id in self.executor.running:
            assert command.job is not None
            self.executor.provide(handle, command.job)

    def _cancel(self, command: Command) -> None:
        self.waiting = [waiting for waiting in self.waiting if waiting.name != command.name]
        handle = self.handles.pop(command.name, None)
        if handle is not None:
            self.executor.cancel(handle)
            self._forget(handle)

    def _report(self, handle: Handle, event: Message | StoodStill | Ended) -> None:
        if isinstance(event, (PointFailed, WorkerFailed)) and event.failure.kind == "disk full":
            raise OSError(errno.ENOSPC, event.failure.message)  # this node's disk, not the study's
        sends = not isinstance(event, WITHOUT_FILES)
        self._send(self.names[handle.id], event, self.written[handle.id].changed() if sends else {})
        if isinstance(event, Ended):
            self._forget(self.handles.pop(self.names[handle.id]))

    def _send(self, name: str, event: Message | StoodStill | Ended, files: dict[str, bytes] | None = None) -> None:
        data = event.seconds if isinstance(event, StoodStill) else None if isinstance(event, Ended) else encode(event)
        self._note_holder()
        with self.changed:
            self.events.append((name, data, files or {}))
            self.changed.notify_all()

    def _forget(self, handle: Handle) -> None:
        del self.names[handle.id]
        written = self.written.pop(handle.id)
        shutil.rmtree(written.folder, ignore_errors=True)

    def _note_holder(self) -> None:
        """Take note of the job that has the device to itself."""
        turns = self.executor.turns[self.device]
        held = (handle for handle, worker in self.executor.running.values() if worker is turns.holder)
        holder = next((self.names[handle.id] for handle in held if handle.id in self.names), None)
        with self.changed:
            if holder != self.holder:
                self.holder = holder
                self.changed.notify_all()

"""Who has a device to itself: one worker after the other in the order of request, while all others stand still.

The two workers of a pair begin when both are ready, so that their calls are timed in turn.
"""

from __future__ import annotations

import time
from collections import deque

from tuner.execution.executor import StoodStill
from tuner.execution.process import WorkerProcess
from tuner.execution.standstill import Guard
from tuner.records.outcome import Device
from tuner.records.protocol import Job, Message, TurnEnded, TurnWanted

DRAIN_S = {"cuda": 0.5}
"""How long a device may go on with what stopped workers had queued there: up to 1024 launches. A worker's first call in
its turn is a warm-up, which takes care of the rest."""


class Turns:
    """The workers of one device, and whose turn it is to have the device to itself."""

    def __init__(self, device: Device, slots: int) -> None:
        self.slots = slots
        self.drain_s = DRAIN_S.get(device.name, 0.0)
        self.workers: list[WorkerProcess] = []
        self.waiting: deque[WorkerProcess] = deque()
        self.holder: WorkerProcess | None = None
        self.guard = Guard()

    @property
    def has_room(self) -> bool:
        """Whether another worker may start: it must not disturb the one that has the device to itself."""
        return len(self.workers) < self.slots and self.holder is None

    def add(self, worker: WorkerProcess) -> None:
        """Take in a worker that has just started."""
        self.workers.append(worker)

    def remove(self, worker: WorkerProcess) -> None:
        """Take out a worker that has ended, with its turn if it had one or wanted one."""
        self.workers.remove(worker)
        if worker in self.waiting:
            self.waiting.remove(worker)
        if worker is self.holder:
            self.holder = None
        self._pass_on()

    def follow(self, worker: WorkerProcess, message: Message | StoodStill) -> None:
        """Take note of what a worker wants."""
        if isinstance(message, TurnWanted):
            self.waiting.append(worker)
        elif isinstance(message, TurnEnded) and worker is self.holder:
            self.holder = None
        else:
            return
        self._pass_on()

    def provide(self, worker: WorkerProcess, job: Job) -> None:
        """Give a worker the job that it waits for."""
        worker.provide(job)
        self._pass_on()

    def _pass_on(self) -> None:
        """Grant the next turn, if the last one has ended, or let all go on."""
        if self.holder is not None:
            return
        self.holder = self._next()
        if self.holder is not None:
            self.waiting.remove(self.holder)
            self._stop_others(self.holder)
            self.holder.grant()
        else:
            for worker in self.workers:
                worker.go_on()
            self.guard.watch([])

    def _next(self) -> WorkerProcess | None:
        """Return who is next: of a pair, neither before both wait for their first turn, and then its first."""
        ready = [worker for worker in self.waiting if self._is_paired(worker)]
        return min(ready, key=lambda worker: not starts_pair(worker), default=None)

    def _is_paired(self, worker: WorkerProcess) -> bool:
        """Return whether the others of a worker's pair, if it is one of a pair, have come as far."""
        if not worker.waits_in_pair:
            return True
        pair = worker.job.standing and worker.job.standing.pair
        others = [other for other in self.workers if other.job.standing and other.job.standing.pair == pair]
        return all(other.has_begun_pair or (other in self.waiting and other.waits_in_pair) for other in others)

    def _stop_others(self, holder: WorkerProcess) -> None:
        others = [worker for worker in self.workers if worker is not holder]
        is_busy = not all(worker.is_still for worker in others)
        self.guard.watch([worker.process.pid for worker in others if worker.process.pid is not None])
        for worker in others:
            worker.stop()
        if is_busy:
            time.sleep(self.drain_s)


def starts_pair(worker: WorkerProcess) -> bool:
    """Return whether a worker is the first of its pair, and has not begun."""
    standing = worker.job.standing
    return standing is not None and standing.is_first and worker.waits_in_pair and not worker.has_begun_pair

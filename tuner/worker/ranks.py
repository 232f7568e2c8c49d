"""The other ranks of a worker that computes an image on several devices: processes that make each of its calls too.

The worker is rank 0. It forks the others before anything uses a device, and tells them on a pipe what to do. The pipe
is their lifeline: they end when it closes. A rank that fails or dies ends the worker.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from tuner.knobs.parallel import device_count
from tuner.records.machine import Memory
from tuner.records.outcome import Failure
from tuner.records.protocol import Job, WorkerFailed
from tuner.records.ranks import Command, Draw, Join, Peak, Report, ReportPeak, ResetPeak, Traced
from tuner.worker.channel import Channel, send_line
from tuner.worker.follower import follow
from tuner.worker.fork_safety import fork
from tuner.worker.group import join_group, open_store
from tuner.worker.weights import Weights

GRACE_S = 3.0
"""How long rank 0 waits for the cause of an error in another rank, and that one for rank 0's own report."""


class Rank:
    """Another rank, as rank 0 sees it."""

    def __init__(self, rank: int, pid: int, commands: int, reports: int) -> None:
        self.rank = rank
        self.pid = pid
        self.commands = commands
        self.reports = reports
        self.answers: queue.SimpleQueue[Peak | Traced] = queue.SimpleQueue()


class Ranks:
    """The ranks beside this process, none if it computes on one device."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.others: list[Rank] = []
        self.is_in_step = True
        self._failure: Failure | None = None
        self._has_failed = threading.Event()
        self._last_word = threading.Lock()

    @property
    def count(self) -> int:
        """The number of devices that compute an image."""
        return len(self.others) + 1

    def start(self, job: Job, weights: Weights) -> None:
        """Fork the other ranks. To be called before this process uses a device."""
        for rank in range(1, device_count(job.build)):
            self.others.append(self._fork(job, weights, rank))
        for other in self.others:
            threading.Thread(target=self._listen, args=(other,), daemon=True).start()

    def _fork(self, job: Job, weights: Weights, rank: int) -> Rank:
        commands, sending = os.pipe()
        receiving, reports = os.pipe()
        pid = fork()
        if pid == 0:
            inherited = [end for other in self.others for end in (other.commands, other.reports)]
            for descriptor in (sending, receiving, self.channel.descriptor, *inherited):
                os.close(descriptor)
            follow(job, weights, rank, commands, reports)
        os.close(commands)
        os.close(reports)
        return Rank(rank, pid, sending, receiving)

    def join(self, device: str) -> None:
        """Join the group with the other ranks, which apply the knobs then."""
        if not self.others:
            return
        store = open_store()
        self.announce(Join(port=store.port))
        join_group(store, 0, self.count, device)

    # ---- what the others do ------------------------------------------------------------------------------------------

    def announce(self, command: Command) -> None:
        """Tell the other ranks what to do. Raises RuntimeError after a call that failed here."""
        if not self.others:
            return
        if not self.is_in_step:
            raise RuntimeError("an earlier call failed on one of several devices, which are no longer in step")
        for other in self.others:
            with contextlib.suppress(BrokenPipeError):  # its end is noticed elsewhere
                send_line(other.commands, command)

    @contextlib.contextmanager
    def drawing(self, command: Draw) -> Any:
        """Have the other ranks make the call that this process makes meanwhile."""
        self.announce(command)
        try:
            yield
        except BaseException:
            self.is_in_step = not self.others
            raise

    def reset_peaks(self) -> None:
        """Have the other ranks forget their peaks of memory."""
        self.announce(ResetPeak())

    def peaks(self) -> Sequence[Memory]:
        """Return the peak of memory of each other rank."""
        self.announce(ReportPeak())
        reports = [other.answers.get() for other in self.others]
        return [report.memory for report in reports if isinstance(report, Peak)]

    def traces(self) -> Sequence[str]:
        """Return the file with the trace of each other rank, after a call that was to be profiled."""
        reports = [other.answers.get() for other in self.others]
        return [report.file for report in reports if isinstance(report, Traced)]

    # ---- the end -----------------------------------------------------------------------------------------------------

    def _listen(self, other: Rank) -> None:
        """Take the reports of a rank. When it fails or dies, end this process, which may wait for it forever."""
        with os.fdopen(other.reports, "rb") as lines:
            for line in lines:
                report: Any = msgspec.json.decode(line, type=Report)
                if isinstance(report, WorkerFailed):
                    failure = report.failure
                    break
                other.answers.put(report)
            else:
                failure = self._death_of(other)
        text = f"rank {other.rank} of {self.count}: {failure.message}"
        failure = msgspec.structs.replace(failure, message=text, stage=self.channel.stage)
        self._failure = self._failure or failure
        self._has_failed.set()
        time.sleep(GRACE_S)
        self._last_word.acquire()
        self.channel.send(WorkerFailed(failure=self._failure))
        os._exit(1)

    def _death_of(self, other: Rank) -> Failure:
        _, status = os.waitpid(other.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        what = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        return Failure(kind="crash", stage=self.channel.stage, message=f"it {what}")

    def cause_of(self, failure: Failure) -> Failure:
        """Return the failure of another rank that caused the one of this rank, which the caller reports; else that."""
        self._last_word.acquire()  # a thread that would report it too waits until the process has ended
        has_cause = bool(self.others) and self._has_failed.wait(GRACE_S)
        return self._failure or failure if has_cause else failure

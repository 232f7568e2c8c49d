"""Log trials beside the study: a tracker that is slow does not hold it up, and one that fails does not end it."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

from tuner.tracking.tracker import Tracker, TrialRun

PATIENCE_S = 60.0
"""At the end of a study, a tracker that logs no trial for so long is not waited for any more."""

SOON_S = 1.0
"""A tracker that needs no longer at the end is waited for without a word."""

GRACE_S = 5.0
"""After Ctrl-C, or an error, the trial that is being logged has so long."""


class TrackingQueue:
    """The trials that a tracker is still to log, one after the other in a thread, which no exit waits for."""

    def __init__(self, name: str, tracker: Tracker, note: Callable[[str], None]) -> None:
        self.name = name
        self.tracker = tracker
        self.note = note
        self.error: BaseException | None = None
        self.is_noted = False
        self.is_given_up = False
        self.added = self.ended = 0
        self.trials: SimpleQueue[TrialRun | None] = SimpleQueue()
        self.thread = Thread(target=self._log_all, name=f"log to {name}", daemon=True)
        self.thread.start()

    def add(self, trial: TrialRun) -> None:
        """Log a trial as soon as those before it are logged."""
        self._note_failure()
        if self.error is None:
            self.added += 1
            self.trials.put(trial)

    def close(self, *, is_hurried: bool = False) -> None:
        """Wait until all is logged, as long as the tracker goes on; in a hurry, only for what is being logged."""
        self.is_given_up = is_hurried
        self.trials.put(None)
        self.thread.join(GRACE_S if is_hurried else SOON_S)
        if self.thread.is_alive() and not is_hurried:
            self.note(f"--log {self.name}: waiting for {self._left()} to be logged")
            self._wait()
        self._note_failure()
        if self.ended < self.added and self.error is None:
            self.note(
                f"--log {self.name}: the tracker did not answer in time, with {self._left()} left to log; "
                "`tune resume` with this option logs what is missing"
            )

    def _left(self) -> str:
        count = self.added - self.ended
        return f"{count} trial{'' if count == 1 else 's'}"

    def _wait(self) -> None:
        """Wait until all is logged, or nothing was for too long."""
        before = -1
        while self.thread.is_alive() and before != self.ended:
            before = self.ended
            self.thread.join(PATIENCE_S)
        self.is_given_up = True

    def _log_all(self) -> None:
        while (trial := self.trials.get()) is not None and self.error is None and not self.is_given_up:
            try:
                self.tracker.log(trial)
            except BaseException as error:
                self.error = error
            self.ended += 1

    def _note_failure(self) -> None:
        if self.error is not None and not self.is_noted:
            self.is_noted = True
            self.note(
                f"--log {self.name}: {type(self.error).__name__}: {first_line(self.error)}; nothing more is logged "
                "there; the study goes on, and `tune resume` with this option logs what is missing"
            )


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return (str(error).splitlines() or [""])[0][:200]

"""Log trials beside the study: a tracker that is slow does not hold it up, and one that fails does not end it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from tuner.tracking.tracker import Tracker, TrialRun


class TrackingQueue:
    """The trials that a tracker is still to log, one after the other in a thread."""

    def __init__(self, name: str, tracker: Tracker, note: Callable[[str], None]) -> None:
        self.name = name
        self.tracker = tracker
        self.note = note
        self.is_broken = False
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.waiting: list[Future[None]] = []

    def add(self, trial: TrialRun) -> None:
        """Log a trial as soon as those before it are logged."""
        self._note_failure()
        if not self.is_broken:
            self.waiting.append(self.thread.submit(self._log, trial))

    def close(self) -> None:
        """Wait until all is logged."""
        self.thread.shutdown()
        self._note_failure()

    def _log(self, trial: TrialRun) -> None:
        if not self.is_broken:
            try:
                self.tracker.log(trial)
            except BaseException:
                self.is_broken = True
                raise

    def _note_failure(self) -> None:
        ended = [one for one in self.waiting if one.done()]
        self.waiting = [one for one in self.waiting if not one.done()]
        for error in filter(None, (one.exception() for one in ended)):
            self.note(
                f"--log {self.name}: {type(error).__name__}: {first_line(error)}; nothing more is logged there; "
                "the study goes on, and `tune resume` with this option logs what is missing"
            )


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return (str(error).splitlines() or [""])[0][:200]

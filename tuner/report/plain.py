"""A study as plain lines, for logs and pipes."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from tuner.numbers import difference_places, format_number, format_ratio, format_signed
from tuner.records.codec import Value
from tuner.records.outcome import Limits, Outcome
from tuner.report.display import Display
from tuner.report.formatting import changes, label, one_line, pluralize, shorten
from tuner.report.points import FrontPoint
from tuner.report.running import Running, RunningSet
from tuner.report.trial_text import limits_text, result_text, trial_text

MAX_LINE = 10_000
"""Characters of a line. None of the package's own is as long."""

NOTABLE_S = 2.0
"""A stage that took at least this long gets a line when it ends."""

HEARTBEAT_S = 30.0
"""Seconds between lines while nothing happens: some CI runners kill jobs without output."""


class PlainDisplay(Display):
    """Writes one line for each event, with the seconds since the start, and flushes it.

    Lines have no control characters. A closed stream is ignored: it must not end the study. The whole of it has a line
    for each stage, however short.
    """

    def __init__(
        self,
        stream: TextIO,
        baseline: Mapping[str, Value],
        heartbeat_s: float = HEARTBEAT_S,
        *,
        is_whole: bool = False,
    ) -> None:
        self._stream = stream
        self._notable_s = 0.0 if is_whole else NOTABLE_S
        self._heartbeat_s = heartbeat_s
        self._baseline = baseline
        self._begin = time.monotonic()
        self._running = RunningSet()
        self._front = ""
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._ticker: threading.Thread | None = None

    def started(
        self, title: str, folder: Path, limits: Limits, notes: Sequence[str], spent_s: float,
        recorded: Sequence[Outcome],
    ) -> None:  # fmt: skip
        self._begin = time.monotonic()
        self._write(f"{title}: study folder {folder}, {limits_text(limits, spent_s)}")
        for text in notes:
            self.note(text)
        self._ticker = threading.Thread(target=self._tick, name="plain display", daemon=True)
        self._ticker.start()

    def limited(self, limits: Limits) -> None:
        """Write nothing: a note says which budget was chosen, and why."""

    def trial_started(self, number: int, purpose: str, values: Mapping[str, Value], points: int) -> None:
        self._running.start(number, purpose, values, points, time.monotonic())
        several = f" [{points} step counts]" if points > 1 else ""
        self._write(f"{trial_text(number, purpose)} started{several}: {label(values)}")

    def task(self, name: str, stage: str) -> None:
        self._running.task(name, stage, time.monotonic())

    def stage(self, number: int, name: str, steps: int | None) -> None:
        self._tell_end(self._running.enter(number, name, steps, time.monotonic()))

    def expected(self, number: int, seconds: float) -> None:
        self._running.expect(number, time.monotonic() + seconds)

    def worker_ended(self, number: int) -> None:
        self._tell_end(self._running.end(number))

    def stood_still(self, number: int, seconds: float) -> None:
        self._running.shift(number, seconds)

    def trial_ended(self, outcome: Outcome, remark: str) -> None:
        tail = f" ({one_line(remark)})" if remark else ""
        name, result = label(changes(outcome.values, self._baseline)), result_text(outcome)
        self._write(f"trial {outcome.number} {outcome.status}: {result}{tail} | {name}")

    def refused(self, values: Mapping[str, Value], reason: str) -> None:
        self._write(f"refused: {reason} | {label(values)}")

    def front(self, points: Sequence[FrontPoint], best: str) -> None:
        text = _front_text(points, best)
        if text != self._front:
            self._front = text
            self._write(text)

    def note(self, text: str) -> None:
        self._write(f"note: {text}")

    def closed(self) -> None:
        for each in self._running:
            self._tell_end(each)
        self._running.clear()
        self._closing.set()
        if self._ticker:
            self._ticker.join(timeout=1.0)
            self._ticker = None

    def _tell_end(self, ended: Running | None) -> None:
        """Tell how long a stage took, if that is notable."""
        if ended and (took := time.monotonic() - ended.since) >= self._notable_s:
            self._write(f"{ended.name}: {ended.doing} took {took:.1f} s")

    def _tick(self) -> None:
        while not self._closing.wait(self._heartbeat_s):
            now = time.monotonic()
            for each in self._running:
                if now - each.since >= self._heartbeat_s / 2:
                    self._write(f"{each.name}: {each.text(now)}")

    def _write(self, text: str) -> None:
        line = f"[{time.monotonic() - self._begin:7.1f} s] {one_line(text)}"
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        line = shorten(line.encode(encoding, "backslashreplace").decode(encoding), MAX_LINE)
        with self._lock:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                return


def _front_text(points: Sequence[FrontPoint], best: str) -> str:
    if not points:
        return "front: empty"
    cheapest = min(points, key=lambda point: point.cost_usd_per_1000_images)
    count, cost = pluralize(len(points), "point"), format_number(cheapest.cost_usd_per_1000_images)
    places = difference_places([(cheapest.quality_low, cheapest.quality_high)], cheapest.quality)
    return (
        f"{best}; front: {count}, cheapest at {cost} US$/1000 images, {format_ratio(cheapest.speed_up)}x, "
        f"difference {format_signed(cheapest.difference, places)}: trial {cheapest.number}, {cheapest.label}"
    )

"""The one GPU: what builds on it at once, and that nothing else runs while one is timed."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pipelines

from knobs_bench.children import Child, alive, lap
from knobs_bench.measuring import work
from knobs_bench.rows import Result, Trial, key
from tuner.records.codec import encode
from tuner.records.machine import Environment

GRACE_S = 45.0
"""How much longer than the budget a trial may take that was started within it."""
TURN_S = 90.0
"""The longest that one may be timed."""


class Room:
    """The machine: what builds on it now, and who may time."""

    def __init__(self, given: argparse.Namespace, here: Environment, pipe: Any, folder: Path) -> None:
        self.given, self.here, self.pipe, self.folder = given, here, pipe, folder
        self.building: dict[str, tuple[Trial, Child]] = {}
        self.ending: list[Child] = []
        self.results: list[Result] = []
        self.until = time.monotonic() + given.budget
        total = (here.device_memory_bytes or 2**37) / 1e9
        self.room_gb = total - 4 - (model_gb(pipe) if given.weights else 0)

    def run(self, waiting: list[Trial]) -> list[Trial]:
        """Run trials until they are done or time is up; what was not started."""
        try:
            while True:
                self.reap()
                self.start(waiting)
                if not self.building:
                    return waiting
                ready = [name for name, (_, child) in self.building.items() if child.stage == "ready"]
                if ready:
                    self.take_turns(ready)
                    continue
                select.select([child.tell for _, child in self.building.values()], [], [], 0.5)
                for name in list(self.building):
                    self.listen(name)
        finally:
            self.reap()
            for _, child in self.building.values():
                child.end()

    def reap(self) -> None:
        """End those that have told their result."""
        while self.ending:
            self.ending.pop().end()

    def start(self, waiting: list[Trial]) -> None:
        """As many as may build at once, those that come first and fit."""
        while len(self.building) < self.given.parallel and time.monotonic() < self.until:
            taken = sum(self.needs_gb(row) for row, _ in self.building.values())
            heavy = sum(row.rank <= 2 for row, _ in self.building.values())
            unfinished = {key(row.values, row.what) for row, _ in self.building.values()}
            unfinished |= {key(row.values, row.what) for row in waiting}
            for row in waiting:
                fits = not self.building or taken + self.needs_gb(row) <= self.room_gb
                is_early = row.rank == 2 and row.compared_with in unfinished
                if fits and not is_early and (row.rank > 2 or heavy < (self.given.parallel + 1) // 2):
                    break
            else:
                return
            waiting.remove(row)
            index = len(self.results) + len(self.building)
            log = self.folder / f"{index}-{row.name.replace('/', '_')[:80]}.log"
            job = partial(work, self.given, self.here, row, self.pipe)
            self.building[row.name] = (row, Child(row.name, self.given, log, job))

    def needs_gb(self, row: Trial) -> float:
        own = 0 if self.given.weights else model_gb(self.pipe)
        return 0.0 if self.given.tiny else row.memory_gb + own

    def take_turns(self, ready: Sequence[str]) -> None:
        """Time those that are ready, one after the other, while all others are stopped."""
        others = [child for name, (_, child) in self.building.items() if name not in ready]
        since = time.monotonic()
        for child in others:
            child.signal(signal.SIGSTOP)
        for name in ready:
            self.reap()
            with contextlib.suppress(BrokenPipeError):  # one that has died since is met with below
                os.write(self.building[name][1].handle, b"1")
            row = self.building[name][0]
            limit_s = row.limit_s if row.alone else TURN_S
            until = time.monotonic() + limit_s
            while name in self.building:
                select.select([self.building[name][1].tell], [], [], 1.0)
                self.listen(name)
                if name in self.building and time.monotonic() > until:
                    self.finish(name, f"timeout (time): no result after {limit_s:.0f} s")
        for child in others:
            child.stops.append((since, time.monotonic()))
            child.signal(signal.SIGCONT)

    def listen(self, name: str) -> None:
        """Take note of what a child says, of its end, and of its limit."""
        row, child = self.building[name]
        is_dead = not alive(child.pid)
        messages = child.lines()
        for message in messages or ():
            child.stage = message.pop("stage")
            child.entered[child.stage] = message.pop("at")
            child.further |= message
            if child.stage in ("done", "failed"):
                self.finish(name)
                return
        now = time.monotonic()
        took_s = now - child.started - child.stopped_s(child.started, now)
        if messages is None or (is_dead and not messages):
            self.finish(name)
        elif child.stage not in ("ready", "time") and took_s > row.limit_s:
            self.finish(name, f"timeout ({child.stage}): no result after {took_s:.0f} s")
        elif child.stage != "ready" and now > self.until + GRACE_S:
            self.finish(name, f"timeout ({child.stage}): no result after {took_s:.0f} s, when the budget was spent")

    def finish(self, name: str, failure: str | None = None) -> None:
        """Keep what came of a trial, and write it down at once: the run may be cut short."""
        row, child = self.building.pop(name)
        given = child.further
        died = None
        if "seconds" in given:
            self.ending.append(child)  # to leave the GPU takes a process a moment, in which others may go on
        else:
            died = child.end()
        if not failure and "seconds" not in given:
            failure = given.get("failure") or died or f"crash ({child.stage}): it ended without a result"
        result = Result(
            trial=row, failure=failure, seconds=given.get("seconds"), samples_s=tuple(given.get("samples_s", ())),
            peak_bytes=given.get("peak_bytes"), changes=given.get("changes", {}), load_s=lap(child, "", "apply"),
            apply_s=lap(child, "apply", "warm up"), first_call_s=None if row.alone else lap(child, "warm up", "ready"),
        )  # fmt: skip
        self.results.append(result)
        with (self.given.out / f"knobs-{self.given.family}.jsonl").open("ab") as file:
            file.write(encode(result) + b"\n")
        if failure:
            with (self.given.out / f"knobs-{self.given.family}-failures.txt").open("a") as file:
                tail = child.log.read_text(errors="replace")[-6000:]
                file.write(f"\n===== {row.name}: {failure}\n{tail}\n")
        outcome = failure or f"{result.seconds:.4f} s"
        print(f"{time.monotonic() - self.until + self.given.budget:5.0f} s  {row.name}: {outcome}", flush=True)


def model_gb(pipe: Any) -> float:
    numbers = sum(parameter.numel() for model in pipelines.models(pipe).values() for parameter in model.parameters())
    return 2 * numbers / 1e9

"""Kill the processes of a running study one after the other at random moments of their lives, and let it go on."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from faults.forked_tune import TuneProcess
from faults.harness import Tune

from tuner.records.codec import read
from tuner.records.outcome import Outcome
from tuner.records.protocol import Job
from tuner.space.candidates import build_key

SIMULATED = ("sabotaged_worker.py", "simulated_template.py")


@dataclass(frozen=True)
class Kill:
    """A process that was killed: the newest job, and what was acknowledged when it died."""

    job: Path
    kept: dict[Path, bytes]


@dataclass(frozen=True)
class Prey:
    """Which processes are killed, when, how many of them are spared, and of how many trials a study is.

    `stage_s` is how long a simulated worker is in a stage: so long that kills at random moments meet every one.
    """

    find: Callable[[psutil.Process], Sequence[psutil.Process]]
    moment_s: Callable[[psutil.Process, random.Random], float]
    spared: float
    after_baseline: bool
    trials: int
    stage_s: str


def workers(parent: psutil.Process) -> list[psutil.Process]:
    """The workers that run, started afresh or forked from the template."""
    children = parent.children()
    forked = [worker for child in children if SIMULATED[1] in _command(child) for worker in child.children()]
    return [child for child in children if SIMULATED[0] in _command(child)] + forked


def templates(parent: psutil.Process) -> list[psutil.Process]:
    return [child for child in parent.children() if SIMULATED[1] in _command(child)]


def any_moment_s(_: psutil.Process, chance: random.Random) -> float:
    """A moment in the life of a worker, from its start to its last image."""
    return chance.uniform(0, 2.5)


def mostly_serving_s(template: psutil.Process, chance: random.Random) -> float:
    """A moment while a template imports and reads, or four times as often once it has forked a worker.

    A template that never forked is not replaced, so that the first of these kills ends a study's hunt.
    """
    if chance.random() < 1 / 5:
        return chance.uniform(0, 8.0)
    while template.is_running() and not template.children():
        time.sleep(0.02)
    return chance.uniform(0, 3.0)


WORKERS = Prey(workers, any_moment_s, spared=0.3, after_baseline=True, trials=25, stage_s="0.15")
TEMPLATES = Prey(templates, mostly_serving_s, spared=0.0, after_baseline=False, trials=14, stage_s="0.05")


def hunt(tune: Tune, process: TuneProcess, prey: Prey, kills: int, chance: random.Random) -> list[Kill]:
    """Kill until so many are killed or the study has ended."""
    seen: set[psutil.Process] = set()
    done: list[Kill] = []
    while process.poll() is None and len(done) < kills:
        for victim in _found(process.pid, prey):
            if victim in seen:
                continue
            seen.add(victim)
            if chance.random() < prey.spared or (prey.after_baseline and not _has_baseline(tune)):
                continue
            kill = _strike(tune, victim, prey, chance)
            done += [kill] if kill else []
        time.sleep(0.02)
    return done


def _found(pid: int, prey: Prey) -> Sequence[psutil.Process]:
    try:
        return prey.find(psutil.Process(pid))
    except psutil.Error:
        return []


def _command(process: psutil.Process) -> str:
    return " ".join(process.cmdline())


def _has_baseline(tune: Tune) -> bool:
    """Whether the baseline and its first repetition are recorded: without these there is no study."""
    return (tune.folder / "trials/0000/outcome.json").exists() and (
        tune.folder / "repetitions/0000/outcome.json"
    ).exists()


def _strike(tune: Tune, victim: psutil.Process, prey: Prey, chance: random.Random) -> Kill | None:
    """Kill a process after a while, if it still runs."""
    try:
        victim.wait(prey.moment_s(victim, chance))
        return None
    except psutil.TimeoutExpired:
        pass
    except psutil.Error:
        return None
    jobs = sorted(tune.folder.glob("*/*/job.json"), key=lambda file: file.stat().st_mtime_ns)
    kept = tune.acknowledged()
    try:
        victim.kill()
    except psutil.Error:
        return None
    return Kill(jobs[-1], kept)


def lost(tune: Tune, kill: Kill) -> list[str]:
    """What was acknowledged before a kill and is not there any more as it was."""
    now = tune.acknowledged()
    return [str(file) for file, content in kill.kept.items() if now.get(file) != content]


def record(tune: Tune, kill: Kill) -> Outcome | None:
    """The failure that names a killed worker, or None if it had answered for everything before it died."""
    key, numbers = build_key(read(kill.job, Job).build), set(kill.kept)
    new = [read(file, Outcome) for file in tune.acknowledged() if file not in numbers]
    found = [outcome for outcome in new if outcome.failure and outcome.build_key == key]
    assert all(outcome.failure and outcome.failure.kind == "crash" for outcome in found), found
    return next((outcome for outcome in found if outcome.failure and "SIGKILL" in outcome.failure.message), None)

"""kill -9 at random in a Ray cluster of three nodes, twenty times each: of actors, of raylets, and of the parent."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import ray_nodes
from faults.harness import Tune, wait_until

KILLS = 20
TRIALS = 60


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    with ray_nodes.started() as found:
        yield found


def actors() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, IndexError):
            if process.cmdline()[0].startswith("ray::SimulatedActor"):
                found.append(process)
    return found


def kill_actor(nodes: Any) -> bool:
    found = actors()  # none once the study is over
    if found:
        random.choice(found).kill()
    return bool(found)


def kill_raylet(nodes: Any) -> bool:
    found = [node for node in nodes.list_all_nodes() if not node.head]
    if found:
        victim = random.choice(found)
        os.kill(victim.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        nodes.remove_node(victim, allow_graceful=False)
    return bool(found)


@pytest.mark.exhaustive
@pytest.mark.parametrize("victim", ["actor", "raylet", "parent"])
def test_kills_at_random(nodes: Any, tune: Tune, victim: str) -> None:
    (tune.out / ray_nodes.PROGRAM).write_text(ray_nodes.WORKER.replace("STAGE_S", "0.1"))
    arguments = ("--ray", nodes.address, "--trials", str(TRIALS))
    figures = {"kills": 0, "runs": 0, "trials": 0, "failed": 0, "ended early": 0, "lost": 0}
    random.seed(victim)
    while figures["kills"] < KILLS:
        while len(nodes.list_all_nodes()) < 3:
            nodes.add_node(num_cpus=1, include_log_monitor=False)
        process = tune.start(*arguments, TUNER_RAY="1")
        figures["runs"] += 1
        wait_until(lambda: process.poll() is not None or tune.outcomes())  # noqa: B023  (called at once)
        while process.poll() is None and figures["kills"] < KILLS:
            time.sleep(random.uniform(0.5, 4.0))
            before = tune.acknowledged()
            if process.poll() is not None:
                break
            if victim == "parent":
                process.kill()
                figures["kills"] += 1
            else:
                figures["kills"] += {"actor": kill_actor, "raylet": kill_raylet}[victim](nodes)
            time.sleep(0.5)
            figures["lost"] += len(before.items() - tune.acknowledged().items())
            if victim == "raylet" and len(nodes.list_all_nodes()) < 2:
                break
        out, error = process.communicate(timeout=600)
        figures["ended early"] += process.returncode not in (0, -signal.SIGKILL)
        assert process.returncode in (0, 1, -signal.SIGKILL), (out, error)
        if len(tune.outcomes()) >= TRIALS:
            count_trials(tune, figures)
            tune.folder.rename(tune.out / f"done{figures['runs']}")
    done = tune.run(*arguments, TUNER_RAY="1")
    assert (done.returncode, done.stderr) == (0, "")
    count_trials(tune, figures)
    print(victim, figures)
    assert (figures["lost"], figures["ended early"]) == (0, 0)
    assert figures["failed"] <= figures["trials"] / 100, "docs/ray.md: 1 of 180 at most"
    tune.check()


def count_trials(tune: Tune, figures: dict[str, int]) -> None:
    found = tune.outcomes().values()
    figures["trials"] += len(found)
    figures["failed"] += sum(outcome.failure is not None for outcome in found)

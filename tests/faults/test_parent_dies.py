"""kill -9 of the parent at random instants: the same command goes on, and nothing that it acknowledged is lost."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.forked_tune import Commands
from faults.harness import Tune, is_whole, wait_until

from tuner.result.config import read_config
from tuner.space.candidates import candidate_key

KILLS = 6
TRIALS = "14"


@pytest.mark.slow
def test_kills_at_random_instants(tune: Tune, undisturbed: Tune) -> None:
    chance = random.Random(0)
    kept: dict[Path, bytes] = {}
    for kill in range(KILLS):
        process = tune.start("--trials", TRIALS)
        if kill % 2:  # on a busy machine too some runs must come far enough to lose something
            wait_until(lambda: len(tune.acknowledged()) > len(kept))  # noqa: B023
            time.sleep(chance.uniform(0.0, 0.5))
        else:
            wait_until(lambda: (tune.folder / "lock").exists())
            time.sleep(chance.uniform(0.0, 2.0))
        assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate()
        tune.wait_until_gone()
        now = tune.acknowledged()
        assert kept.items() <= now.items()
        assert all(is_whole(file) for file in now)
        if len(list(tune.folder.glob("trials/*/outcome.json"))) > 1:  # it is written after the first
            read_config(tune.folder / "best_config.json")
        kept = now
    assert kept, "no run lived long enough to acknowledge anything"
    done = tune.run("--trials", TRIALS)
    assert (done.returncode, done.stderr) == (0, "")
    assert kept.items() <= tune.acknowledged().items()
    assert is_whole(tune.folder / "best_config.json")
    tune.check()
    undisturbed.run("--trials", TRIALS)
    assert candidates(tune) == candidates(undisturbed)


@pytest.fixture
def undisturbed(commands: Commands, tmp_path: Path, no_pipeline: Path) -> Iterator[Tune]:
    """The same study, which nobody kills."""
    tune = Tune(commands, tmp_path / "undisturbed", no_pipeline)
    yield tune
    tune.end()


def candidates(tune: Tune) -> set[str]:
    """The candidates of a study. Those of one build may have been measured in another order."""
    return {candidate_key(outcome.values) for outcome in tune.outcomes().values()}


def test_a_kill_during_the_baseline_leaves_it_to_the_next_run(tune: Tune) -> None:
    process = tune.start(TUNER_FAULTS={"1": "sleep@score"})
    wait_until(lambda: (tune.folder / "trials" / "0000" / "worker.log").exists())
    process.kill()
    process.communicate()
    tune.wait_until_gone()
    assert tune.run("--trials", "3").returncode == 0
    assert tune.outcomes()[0].purpose == "baseline"
    tune.check()


def test_the_same_command_after_the_end_finds_everything_there(tune: Tune) -> None:
    assert tune.run("--trials", "6").returncode == 0
    before = tune.acknowledged()
    assert tune.run("--trials", "6").returncode == 0
    assert tune.acknowledged() == before
    tune.check()

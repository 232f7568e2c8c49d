"""A study on a disk that fills up: one line, exit code 2, and after making room the same command goes on."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.forked_tune import Commands
from faults.harness import Tune, assert_one_line, wait_until
from faults.sabotaged_worker import fill_disk


@pytest.fixture
def tune_there(commands: Commands, disk: Path, no_pipeline: Path) -> Iterator[Tune]:
    tune = Tune(commands, disk, no_pipeline)
    tune.environment["TUNER_DISK"] = str(disk)
    yield tune
    tune.end()


def assert_goes_on(tune: Tune, kept: dict[Path, bytes]) -> None:
    """After room is made the same command finds all that was acknowledged, and comes to its end."""
    assert kept.items() <= tune.acknowledged().items()
    (tune.out / "ballast").unlink()
    done = tune.run("--trials", str(len(tune.outcomes()) + 3))
    assert (done.returncode, done.stderr) == (0, "")
    assert kept.items() <= tune.acknowledged().items()
    assert (tune.folder / "best_config.json").exists()
    tune.check()


@pytest.mark.parametrize(
    ("workers", "stage"),
    [
        pytest.param("1", "load", id="baseline, early"),
        pytest.param("1", "sent", id="baseline, the parent writes", marks=pytest.mark.exhaustive),
        pytest.param("repetition 1", "score", id="repetition, the worker writes"),
        pytest.param("2", "score", id="recipe, the worker writes", marks=pytest.mark.exhaustive),
        pytest.param("4", "load", id="search, early", marks=pytest.mark.exhaustive),
        pytest.param("4|5|6", "sent", id="search, the parent writes"),
    ],
)
def test_it_fills_up_in_a_trial(tune_there: Tune, workers: str, stage: str) -> None:
    faults = dict.fromkeys(workers.split("|"), f"disk@{stage}")  # a candidate that is rejected sends no result
    done = tune_there.run("--trials", "30", TUNER_FAULTS=faults)
    assert_one_line(done, 2, str(tune_there.folder), "disk is full")
    assert tune_there.left() == []
    kept = tune_there.acknowledged()
    assert not [outcome for outcome in tune_there.outcomes().values() if outcome.failure], "blamed on a configuration"
    assert_goes_on(tune_there, kept)


def test_it_is_full_from_the_start(tune_there: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_DISK", str(tune_there.out))
    fill_disk()
    assert_one_line(tune_there.run(), 2, str(tune_there.folder), "disk is full")
    assert_one_line(tune_there.run(), 2, str(tune_there.folder), "disk is full")
    assert_goes_on(tune_there, {})


@pytest.mark.exhaustive
@pytest.mark.slow
def test_it_fills_up_at_random_instants(tune_there: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_DISK", str(tune_there.out))
    chance = random.Random(0)
    for _ in range(2):
        process = tune_there.start()
        wait_until(lambda: (tune_there.folder / "lock").exists())
        time.sleep(chance.uniform(0.2, 1.5))
        fill_disk()
        out, error = process.communicate(timeout=60)
        done = subprocess.CompletedProcess((), process.returncode, out, error)
        assert_one_line(done, 2, str(tune_there.folder), "disk is full")
        kept = tune_there.acknowledged()
        assert_one_line(tune_there.run(), 2, str(tune_there.folder), "disk is full")
        assert_goes_on(tune_there, kept)

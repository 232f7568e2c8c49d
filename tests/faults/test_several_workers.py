"""Two workers at a time: kill -9 of either, and of the parent while one stands still in the other's turn."""

from __future__ import annotations

import pytest
from faults.harness import Tune, stopped, wait_until


@pytest.mark.parametrize("victim", ["the one that stands still", "the parent"])
def test_a_kill_in_a_turn_loses_nothing(tune: Tune, victim: str) -> None:
    process = tune.start("--trials", "30", TUNER_SLOTS="2", TUNER_TURN_S="1.5")
    still = wait_until(lambda: stopped(tune.left()))[0]
    before = tune.acknowledged()
    if victim == "the parent":
        process.kill()
        process.communicate()
        tune.wait_until_gone()
    else:
        still.kill()
        wait_until(lambda: len(tune.acknowledged()) > len(before) + 1)
        process.kill()
        process.communicate()
        tune.wait_until_gone()
    done = tune.run("--trials", str(len(tune.outcomes()) + 2), TUNER_SLOTS="2")
    assert (done.returncode, done.stderr) == (0, "")
    assert before.items() <= tune.acknowledged().items()
    tune.check()

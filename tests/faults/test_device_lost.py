"""A device that is lost in the middle of a study: its worker is killed and the device hidden."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil
from faults.harness import Tune, wait_until

from tuner.records.codec import read
from tuner.records.outcome import Outcome

LOST = 1


def kill_workers_on(tune: Tune, index: int) -> int:
    """Kill what runs on a device, and return how many workers there were."""
    killed = 0
    for process in tune.left():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("CUDA_VISIBLE_DEVICES") == f"GPU-{index}":
                process.kill()
                killed += 1
    return killed


def test_a_study_goes_on_with_the_other_devices(tune: Tune, tmp_path: Path) -> None:
    process = tune.start("--trials", "30", TUNER_DEVICES="3", TUNER_HIDDEN=str(tmp_path), TUNER_TURN_S="0.2")
    wait_until(
        lambda: (
            process.poll() is not None
            or sum(outcome.device.index == LOST for outcome in tune.outcomes().values() if outcome.device) > 2
        )
    )
    assert process.poll() is None, process.communicate()
    (tmp_path / str(LOST)).touch()
    killed = wait_until(lambda: kill_workers_on(tune, LOST), 30.0)
    before = tune.acknowledged()
    # The study may start another worker there until it sees that the device is lost: that one dies as well.
    wait_until(lambda: kill_workers_on(tune, LOST) == 0 and process.poll() is not None)
    out, error = process.communicate(timeout=240)
    assert (process.returncode, error) == (0, "")
    assert f"cpu {LOST} is taken out: the driver does not find it any more" in out
    assert before.items() <= tune.acknowledged().items()
    after = [read(file, Outcome) for file in tune.acknowledged().keys() - before.keys()]
    assert {outcome.status for outcome in after} <= {"measured", "rejected"}, "what was lost is no failure of a trial"
    devices = [outcome.device.index for outcome in after if outcome.device]
    assert set(devices) - {LOST} == {0, 2}
    assert devices.count(LOST) <= killed, "what its workers had told when they were killed"
    assert len(tune.outcomes()) == 30
    tune.check()

"""Workers that die, hang or talk nonsense: each is named in the record, the next trial is healthy, nobody stays."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest
from faults.harness import Tune, assert_one_line, stopped, wait_until

FAULTS = (
    ("kill@load", "crash", "load", "the worker was killed by SIGKILL; the system sends it when memory runs out"),
    ("segv@apply", "crash", "apply", "the worker was killed by SIGSEGV"),
    ("abort@compile", "crash", "compile", "the worker was killed by SIGABRT"),
    ("exit 0@warm up", "crash", "warm up", "the worker exited with code 0 before it finished"),
    ("exit 3@trace", "crash", "trace", "the worker exited with code 3 before it finished"),
    ("stop@load", "timeout", "load", "still in stage 'load' after 2 s"),
    ("sleep@apply", "timeout", "apply", "still in stage 'apply' after 2 s"),
    ("close@compile", "timeout", "compile", "still in stage 'compile' after 2 s"),
    ("grandchild@time", "crash", "time", "the worker exited with code 9 before it finished"),
    ("garbage@score", "error", "score", "the worker sent an invalid message"),
    ("grandchild@load", "crash", "load", "the worker exited with code 9 before it finished"),
)
FIRST = 2
"""The build after the baseline's."""


@pytest.mark.slow
def test_each_fault_is_named_and_the_next_trial_is_healthy(tune: Tune) -> None:
    faults = {str(FIRST + 2 * index): fault for index, (fault, *_) in enumerate(FAULTS)}
    deadlines = dict.fromkeys(("load", "apply", "compile"), 2.0)
    one_each = ("--set", "steps=8", "--trials", str(3 + 2 * len(FAULTS)))
    done = tune.run(*one_each, TUNER_FAULTS=faults, TUNER_DEADLINES=deadlines)
    assert done.returncode == 0, done.stderr
    tune.check()
    built = [outcome for number, outcome in sorted(tune.outcomes().items()) if tune.has_own_build(number)][1:]
    # The sampler may have nothing new to propose after the last fault.
    assert len(built) >= 2 * len(FAULTS) - 1
    assert not [following for following in built[1::2] if following.failure]
    for (_, kind, stage, message), hit in zip(FAULTS, built[::2], strict=False):
        assert hit.failure is not None, hit
        assert (hit.failure.kind, hit.failure.stage) == (kind, stage)
        assert hit.failure.message.startswith(message)
        assert (tune.folder / "trials" / f"{hit.number:04}" / hit.failure.log).is_file()


@pytest.mark.parametrize(
    "fault",
    [
        "kill@load",
        "garbage@trace",
        *(pytest.param(f, marks=pytest.mark.exhaustive) for f in ("exit 0@load", "sleep@apply")),
    ],
)
def test_a_baseline_that_fails_ends_the_study_with_one_line(tune: Tune, fault: str) -> None:
    done = tune.run(TUNER_FAULTS={"1": fault}, TUNER_DEADLINES={"apply": 0.5})
    assert_one_line(done, 1, "the baseline", "worker.log")
    tune.check()


def test_a_hung_worker_is_gone_soon_after_its_deadline(tune: Tune) -> None:
    process = tune.start(TUNER_FAULTS={"1": "stop@load"}, TUNER_DEADLINES={"load": 1.0})
    hung = wait_until(lambda: stopped(tune.left()))[0]
    hung.wait(timeout=11)
    process.communicate(timeout=60)
    tune.check()


def test_a_worker_ends_with_its_parent(tune: Tune) -> None:
    process = tune.start(TUNER_FAULTS={"1": "sleep@compile"})
    wait_until(lambda: len(tune.left()) == 2 and (tune.folder / "trials" / "0000" / "worker.log").exists())
    time.sleep(0.5)
    process.kill()
    process.communicate()
    tune.wait_until_gone()


def test_ctrl_c_is_one_line_and_keeps_everything(tune: Tune) -> None:
    process = tune.start()
    wait_until(lambda: len(tune.outcomes()) >= 4)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=30)
    assert_one_line(
        subprocess.CompletedProcess((), process.returncode, out, error),
        130,
        "interrupted; all recorded trials are kept, ",
    )
    assert f"{tune.folder / 'best_config.json'} has " in error and f"`tune resume {tune.folder}` goes on" in error
    assert tune.left() == []
    before = tune.acknowledged()
    assert len(before) >= 4
    assert tune.run("--trials", str(len(tune.outcomes()) + 1)).returncode == 0
    assert before.items() <= tune.acknowledged().items()
    tune.check()


def test_ctrl_c_during_the_baseline_leaves_it_to_the_next_run(tune: Tune) -> None:
    process = tune.start(TUNER_FAULTS={"1": "sleep@load"})
    wait_until(lambda: (tune.folder / "trials" / "0000" / "worker.log").exists())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert tune.run("--trials", "3").returncode == 0
    tune.check()
    assert tune.outcomes()[0].purpose == "baseline"


def test_a_second_run_of_the_same_study_is_refused(tune: Tune) -> None:
    first = tune.start()
    wait_until(tune.outcomes)
    assert_one_line(tune.run(), 2, str(tune.folder), f"another process is running this study (pid {first.pid}, since ")
    assert first.poll() is None
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    assert first.returncode == 130
    assert tune.left() == []

"""A `tune run` to do harm to, and the means to see what is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import psutil
from faults.forked_tune import Commands, TuneProcess

from tuner.records.codec import read
from tuner.records.outcome import Outcome
from tuner.search.request import Request

HERE = Path(__file__).parent
SPACE = HERE / "space.yaml"
MARK = "TUNER_TEST"
DEMO = Path("demo")
"""The scorer that comes with the package."""


def marked(mark: str) -> list[psutil.Process]:
    """The running processes whose environment has the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def stopped(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """The processes that stand still; one that has ended meanwhile does not."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() == psutil.STATUS_STOPPED:
                found.append(process)
    return found


def wait_until(condition: Callable[[], Any], seconds: float = 240.0) -> Any:
    """What the condition gives as soon as it is true; fails after so many seconds, a limit for what hangs."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, f"still waiting after {seconds:.0f} s"
        time.sleep(0.02)
    return result


class Tune:
    """The command, in a folder of its own, with workers that are simulated."""

    def __init__(self, commands: Commands, out: Path, model: Path, scorer: Path = DEMO) -> None:
        self.commands = commands
        self.started: list[TuneProcess] = []
        self.out = out
        self.model = model
        self.scorer = scorer
        self.mark = uuid.uuid4().hex
        self.environment = {MARK: self.mark, "TUNER_SIMULATED": "1"}
        self.folder = out / "study"

    def arguments(self, *more: str) -> list[str]:
        return [
            "run", str(self.model), "--scorer", str(self.scorer), "--space", str(SPACE), "--device", "cpu",
            "--out", str(self.out), "--study", "study", "--budget", "10m", *more,
        ]  # fmt: skip

    def start(self, *more: str, **environment: Any) -> TuneProcess:
        """Start it. An environment value that is no text goes as JSON."""
        return self.start_command(*self.arguments(*more), **environment)

    def start_command(self, *arguments: str, **environment: Any) -> TuneProcess:
        """Start any command of `tune`."""
        given = {name: value if isinstance(value, str) else json.dumps(value) for name, value in environment.items()}
        process = self.commands.start(list(arguments), {**os.environ, **self.environment, **given})
        self.started.append(process)
        return process

    def run(self, *more: str, **environment: Any) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return self.command(*self.arguments(*more), **environment)

    def run_afresh(self, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end in a new interpreter, which the environment may change."""
        return subprocess.run(
            [sys.executable, str(HERE / "sabotaged_tune.py"), *self.arguments(*more)],
            env={**os.environ, **self.environment, **environment}, text=True, capture_output=True, timeout=480,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def command(self, *arguments: str, **environment: Any) -> subprocess.CompletedProcess[str]:
        """Run any command of `tune` to its end."""
        process = self.start_command(*arguments, **environment)
        out, error = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode or 0, out, error)

    def outcomes(self) -> dict[int, Outcome]:
        files = self.folder.glob("trials/*/outcome.json")
        return {int(file.parent.name): read(file, Outcome) for file in files}

    def has_own_build(self, number: int) -> bool:
        """Whether a worker was started for this trial, not for another one in whose row it is."""
        return (self.folder / "trials" / f"{number:04}" / "job.json").exists()

    def acknowledged(self) -> dict[Path, bytes]:
        """Every acknowledged outcome, as it lies there."""
        return {file: file.read_bytes() for file in self.folder.glob("*/*/outcome.json")}

    def left(self) -> list[psutil.Process]:
        """What still runs: the commands themselves were forked, and so have no mark in their environment."""
        running = [process.pid for process in self.started if process.poll() is None]
        return [each for each in psutil.process_iter() if each.pid in running] + marked(self.mark)

    def end(self) -> None:
        """Kill what is left."""
        for process in self.started:
            process.kill()
        end(self.mark)

    def wait_until_gone(self) -> None:
        """The promise is five seconds; a machine that is busy with other things gets some more."""
        wait_until(lambda: not self.left(), 10.0)

    def check(self) -> None:
        """What must be true of the folder whenever a run has ended by itself."""
        from optuna import load_study
        from optuna.trial import TrialState

        assert self.left() == []
        assert list(self.folder.rglob(".*.json.*")) == []
        read(self.folder / "study.json", Request)
        study = load_study(study_name="study", storage=f"sqlite:///{self.folder / 'study.db'}")
        trials = {trial.number: trial for trial in study.trials}
        assert {trial.state for trial in trials.values()} <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
        outcomes = self.outcomes()
        for number, outcome in outcomes.items():
            assert outcome.number == number
            assert trials[number].user_attrs["status"] == outcome.status
            assert trials[number].params.items() <= outcome.values.items()
            if outcome.status == "measured":
                assert outcome.quality is not None
                assert trials[number].values == [outcome.cost_usd_per_1000_images, outcome.quality.mean]
            else:
                assert trials[number].state == TrialState.PRUNED
        assert {trial.number for trial in trials.values() if trial.state == TrialState.COMPLETE} <= outcomes.keys()


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """The run ended with this exit code and one line on standard error that has these words."""
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("tune: "), done.stderr
    assert not [word for word in words if word not in lines[0]], lines[0]
    assert "Traceback" not in done.stdout


def is_whole(file: Path) -> bool:
    try:
        return bool(msgspec.json.decode(file.read_bytes()))
    except (OSError, msgspec.DecodeError):
        return False


def end(mark: str) -> None:
    """Kill what is left."""
    for process in marked(mark):
        process.kill()

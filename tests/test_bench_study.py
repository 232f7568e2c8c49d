"""The program that runs a study at real size and kills it: its command, its figures, and whom it kills."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import bench_study
import pytest
from study_bench.families import FAMILIES, command
from study_bench.kills import ROLES, TEMPLATE, Kill, Killer, strikes
from study_bench.running import KILLED, Deadline, Stopped, wait
from study_bench.table import FIGURES, rows

from tuner import cli


@pytest.mark.parametrize("name", FAMILIES)
def test_the_command_is_one_that_tune_understands(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    words = command(family, family.size, tmp_path, family.within, ["--trials", "3"])
    given = cli.make_parser().parse_args(words[3:])
    assert (given.study, given.trials, given.budget > 200) == ("study", 3, True)
    assert set(family.asked) <= {figure.name for figure in FIGURES}


def test_words_after_two_dashes_are_for_tune() -> None:
    given = bench_study.parse(["--family", "flux", "--stop-after", "9m", "--", "--set", "batch=1"])
    assert (given.stop_after, given.more) == (540.0, ["--set", "batch=1"])


def test_resuming_needs_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_study.main(["--resume", "--folder", str(tmp_path / "none")]) == 2
    assert "no study to go on with" in capsys.readouterr().err


def point(trial: int, steps: int, *, confirmed: bool = True, low: float = -0.1) -> dict[str, Any]:
    return {
        "trial": trial, "values": {"steps": steps, "batch": 1}, "confirmed": confirmed,
        "quality_difference": {"low": low}, "latency_s": {"value": 5.0 / (trial + 1)},
    }  # fmt: skip


def made_up(**time: Any) -> dict[str, Any]:
    """Trials 1 to 4: fewer steps, out of tolerance, in doubt, and one that has it all."""
    front = [point(1, 20), point(2, 28, low=-2.0), point(3, 28, confirmed=False), point(4, 28)]
    return {
        "best": {
            "baseline": point(0, 28), "chosen": front[0], "front": front, "quality_tolerance": 0.5,
            "speed_up": {"value": 2.0}, "speed_up_confirmed": True, "predictions": [{"error": 0.004}, {"error": -0.02}],
        },
        "points": [{"number": number, "speed_up": 1.0 + number} for number in range(5)],
        "outcomes": [{"values": {"compile.scope": "full"}, "build_key": "a", "status": "measured"}],
        "time": {"builds": 25, "useful_share": 0.5, "start_s": 6.0, "repetition_s": 20.0,
                 "unfinished": {"5": "await", "6": "score", "7": "compile"}, **time},
    }  # fmt: skip


def test_figures_stand_beside_what_is_asked() -> None:
    report = made_up(first_gain_s=None, parent_cpu_share=0.002)
    found = {name: (seen, asked, met) for name, seen, asked, met in rows(report, FAMILIES["flux"].asked)}
    assert found["builds"] == ("25", "at least 20", "met")
    assert found["builds timed"] == ("27", "", "")
    assert found["first confirmed gain"] == ("none", "at most 5:00 min", "NOT MET")
    assert found["gain with the untouched steps"] == ("5.00x", "at least 1.70x", "met")
    assert found["gain of the choice"] == ("2.00x", "", "")
    assert found["chosen call"] == ("2.5 s", "", "")
    assert found["device at work"] == ("50.0%", "at least 80.0%", "NOT MET")
    assert found["start of a worker"][2] == "NOT MET"
    assert found["composed against whole calls"] == ("2, at most 2.0% off, 50% within 1%", "95% within 1%", "NOT MET")


def test_a_study_of_an_earlier_version_has_no_figures_of_time() -> None:
    report = made_up() | {"time": None}
    found = {row[0]: row[1] for row in rows(report, {})}
    assert found["builds"] == found["builds timed"] == "none"


def test_a_command_is_interrupted_when_the_time_is_up() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stderr=subprocess.DEVNULL)
    with pytest.raises(Stopped):
        wait(process, Deadline(0.2))
    assert process.returncode not in (None, 0, KILLED)


class Process:
    """A process by its number, its parent's, and its module."""

    def __init__(self, pid: int, parent: int, module: str) -> None:
        self.pid = pid
        self.parent = parent
        self.module = module

    def cmdline(self) -> list[str]:
        return ["python", "-P", "python.py", self.module, "7"]

    def ppid(self) -> int:
        return self.parent


def test_each_role_is_known_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = {10: 10, 20: 20, 30: 20, 40: 40, 50: 50, 60: 60}
    monkeypatch.setattr(os, "getsid", sessions.__getitem__)
    processes: list[Any] = [
        Process(10, 1, "tuner"), Process(20, 10, TEMPLATE), Process(30, 20, TEMPLATE), Process(40, 20, TEMPLATE),
        Process(50, 10, "tuner.worker"), Process(60, 40, "torch._inductor"),
    ]  # fmt: skip
    found = {role: [process.pid for process in find(processes, 10)] for role, find in ROLES.items()}
    assert found == {"parent": [10], "template": [20], "holder": [30], "worker": [50, 40]}


def test_strikes_of_an_earlier_call_count_and_a_missing_role_is_left_out(tmp_path: Path) -> None:
    class Made(Killer):
        def acknowledged(self) -> dict[Path, bytes]:
            return {tmp_path: b""}

        def strike(self, role: str) -> Kill | None:
            return None if role == "holder" else Kill(role, 1, "")

        def resumes(self) -> Kill:
            return Kill("resumed", 2, "")

    killer = Made([], tmp_path, 1.0, Deadline(None))
    struck = [kill.role for kill in strikes(killer, 2, [Kill("parent", 1, ""), Kill("worker", 1, "")])]
    assert struck == ["parent", "worker", "template", "template", "resumed"]


def test_what_was_acknowledged_must_stay_as_it_was(tmp_path: Path) -> None:
    killer = Killer([], tmp_path, 1.0, Deadline(None))
    folder = tmp_path / "study" / "trials" / "0001"
    folder.mkdir(parents=True)
    file = folder / "outcome.json"
    file.write_text('{"status": "measured"}')
    kept = killer.acknowledged()
    assert killer._faults(kept) == []
    file.write_text("{")
    assert killer._faults(kept) == [f"{file}: lost or changed", f"{file}: torn"]

"""`tune run` as a user types it, on the pipeline that comes with the package, and what it leaves behind.

On a quiet two-core machine it is 31 trials from 7 builds in 300 s (see the README); the bounds here leave room for
neighbours.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tuner.export import BestConfig
from tuner.record import Outcome, read

CALLS = 15

TIME_A_TUNED_PIPELINE = f"""
import json, sys, time, torch, tuner
pipe, call = tuner.load(sys.argv[1])
prompts = ["a large solid red circle above a small blue square"] * call.batch
def seconds():
    start = time.perf_counter()
    images = pipe(prompts, **call.arguments).images
    return time.perf_counter() - start, images
for _ in range(5):
    seconds()
times, images = zip(*(seconds() for _ in range({CALLS})))
print(json.dumps({{"median_s": sorted(times)[{CALLS // 2}], "count": len(images[-1]), "size": images[-1][0].size}}))
"""


class Study:
    """One run of the command: what it printed, how long it took, and its folder."""

    def __init__(self, device: str, out: Path) -> None:
        self.device = device
        start = time.monotonic()
        self.process = subprocess.run(
            ["tune", "run", "--device", device, "--out", str(out)], capture_output=True, text=True, cwd=out, timeout=800
        )
        self.wall_s = time.monotonic() - start
        assert self.process.returncode == 0, self.process.stdout + self.process.stderr
        (self.folder,) = out.iterdir()
        self.best = read(self.folder / "best_config.json", BestConfig)
        self.outcomes = [read(path, Outcome) for path in sorted(self.folder.glob("trials/*/outcome.json"))]


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(request.param, tmp_path_factory.mktemp("studies"))


pytestmark = pytest.mark.slow


def test_it_ends_by_itself_in_time(study: Study) -> None:
    assert study.wall_s < 400


def test_it_records_many_trials_from_several_builds(study: Study) -> None:
    assert len(study.outcomes) >= 20
    assert len({(outcome.build_key, outcome.values["batch"]) for outcome in study.outcomes}) >= 5


def test_a_graph_break_is_rejected_at_its_line(study: Study) -> None:
    rejected = [outcome for outcome in study.outcomes if outcome.status == "rejected"]
    verdicts = [outcome.build.verdict for outcome in rejected if outcome.build and outcome.build.verdict]
    findings = [finding for verdict in verdicts for finding in verdict.findings]
    assert any(f.kind == "graph break" and "first_block_cache.py:" in f.source for f in findings)
    for outcome in rejected:
        assert list((study.folder / f"trials/{outcome.number:04}").glob("*.pt.trace.json.gz"))


def test_the_choice_is_cheaper_and_as_good(study: Study) -> None:
    best = study.best
    assert len(best.front) >= 3
    assert best.chosen.cost_usd_per_1000_images < best.baseline.cost_usd_per_1000_images
    assert best.speed_up_confirmed
    assert best.chosen.clip_score_difference.low >= -best.clip_score_tolerance
    assert {"compile.scope", "steps"} <= set(best.chosen.values)


def test_the_baseline_is_measured_in_several_processes(study: Study) -> None:
    repeats = [read(path, Outcome) for path in study.folder.glob("repeats/*/outcome.json")]
    assert sum(outcome.number == 0 for outcome in repeats) >= 2
    assert sum(outcome.number == study.best.chosen.trial for outcome in repeats) >= 2


def test_the_report_shows_what_was_found(study: Study) -> None:
    printed = study.process.stdout
    assert "(chosen)" in printed
    assert "graph break" in printed
    assert str(study.folder / "best_config.json") in printed.replace("\n", "")


def test_tensorboard_can_show_it(study: Study) -> None:
    trials = study.folder / "trials"
    assert all(list(folder.glob("events.out.tfevents.*")) for folder in trials.iterdir())
    assert list((trials / "0000").glob("*.pt.trace.json.gz"))
    assert len(list((trials / "0000" / "images").glob("*.png"))) == len(study.best.workload.prompts)


def test_the_same_command_has_nothing_left_to_do(study: Study) -> None:
    before = {path: path.read_bytes() for path in study.folder.glob("trials/*/outcome.json")}
    again = subprocess.run(
        ["tune", "run", "--device", study.device, "--out", str(study.folder.parent)], capture_output=True, timeout=120
    )
    assert again.returncode == 0
    assert {path: path.read_bytes() for path in study.folder.glob("trials/*/outcome.json")} == before
    best = read(study.folder / "best_config.json", BestConfig)
    assert (best.chosen, best.front, best.speed_up) == (study.best.chosen, study.best.front, study.best.speed_up)


def test_a_fresh_process_reproduces_the_chosen_latency(study: Study) -> None:
    runs = [in_a_fresh_process(study.folder / "best_config.json") for _ in range(3)]
    chosen = study.best.chosen
    assert {run["count"] for run in runs} == {chosen.batch}
    assert {tuple(run["size"]) for run in runs} == {(study.best.workload.width, study.best.workload.height)}
    tolerance = 0.03 if study.device == "cuda" else 0.10
    assert sorted(run["median_s"] for run in runs)[1] == pytest.approx(chosen.latency_s.value, rel=tolerance)


def in_a_fresh_process(config: Path) -> dict[str, Any]:
    process = subprocess.run(
        [sys.executable, "-c", TIME_A_TUNED_PIPELINE, str(config)], capture_output=True, text=True, timeout=400
    )
    assert process.returncode == 0, process.stderr
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result

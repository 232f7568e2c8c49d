"""`tune run` as a user types it, on the pipeline that comes with the package, and what it leaves behind.

All tests look at one study, of a search space whose recipes have at once what the tests look for. It ends after a few
trials, well before its budget. A study that has not found all of it gets more trials and a longer budget, as its user
would give it. The gain that fresh processes reproduce is over a baseline that is measured beside them. On a CPU the
study and those processes have one core, so that other tests can run on the others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import pytest
from machine import Machine

from tuner.records.codec import Value, read
from tuner.records.outcome import Outcome
from tuner.records.quality import NoiseFloor
from tuner.result.records import BestConfig

CALLS, MAX_TURNS = 7, 2
MIN_TRIALS, MIN_BUILDS, MIN_FRONT = 10, 3, 2

TIME_A_PIPELINE = f"""
import json, sys, time, torch, tuner
from diffusers import DiffusionPipeline
from tuner.demo import PIPELINE_DIR
pipe, call = tuner.load(sys.argv[1])
arguments = dict(call.arguments)
batch = call.batch
if sys.argv[2] == "untouched":
    device, dtype = pipe.device, torch.bfloat16 if pipe.device.type == "cuda" else torch.float32
    pipe = DiffusionPipeline.from_pretrained(PIPELINE_DIR, dtype=dtype).to(device)
    pipe.set_progress_bar_config(disable=True)
    arguments["num_inference_steps"], batch = int(sys.argv[3]), 1
prompts = ["a large solid red circle above a small blue square"] * batch
def seconds():
    start = time.perf_counter()
    seeds = [torch.Generator().manual_seed(seed) for seed in range(batch)]
    images = pipe(prompts, generator=seeds, **arguments).images
    return time.perf_counter() - start, images
for _ in range(2):
    seconds()
times, images = zip(*(seconds() for _ in range({CALLS})))
median_s = sorted(times)[{CALLS // 2}]
print(json.dumps({{"s_per_image": median_s / batch, "count": len(images[-1]), "size": images[-1][0].size}}))
"""

SPACE = Path(__file__).parent / "data" / "short_search.yaml"

LIMITS = ((300, 10), (480, 18))
"""Budgets in s, and how many trials each may record."""

MAX_OVERTIME_S = 70
"""What a run may take beyond its budget: it starts, judges the finalists and writes the report."""


class Study:
    """A study with a budget that suffices: its folder, what the last run printed, and how long the first took."""

    def __init__(self, device: str, out: Path) -> None:
        self.device = device
        self.out = out
        study = ["--device", device, "--out", str(out), "--space", str(SPACE), "--strategy", "tpe"]  # recipes first
        for budget_s, trials in LIMITS:
            self.command = ["tune", "run", *study, "--budget", f"{budget_s}s", "--trials", str(trials)]
            start = time.monotonic()
            self.run()
            if budget_s == LIMITS[0][0]:
                self.first_run_s = time.monotonic() - start
            if self.is_enough():
                break

    def run(self) -> None:
        self.process = subprocess.run(
            self.command, capture_output=True, text=True, cwd=self.out, timeout=800, env=all_threads()
        )
        assert self.process.returncode == 0, self.process.stdout + self.process.stderr
        (self.folder,) = self.out.iterdir()
        self.best = read(self.folder / "best_config.json", BestConfig)
        self.outcomes = [read(path, Outcome) for path in sorted(self.folder.glob("trials/*/outcome.json"))]

    def is_enough(self) -> bool:
        """Whether there are trials, a rejected one and a confirmed gain to look at, where one can be expected."""
        is_gain = self.best.chosen.trial != self.best.baseline.trial or not self.has_quick_half_precision()
        is_searched = len(self.outcomes) >= MIN_TRIALS and len(self.builds()) >= MIN_BUILDS
        return is_gain and is_searched and len(self.best.front) >= MIN_FRONT and bool(self.rejected())

    def has_quick_half_precision(self) -> bool:
        """Whether products in bfloat16 are no slower than in float32: without that no gain is sure on a noisy CPU."""
        rates = self.best.roofline.flop_per_s if self.best.roofline else {}
        return rates.get("bfloat16", 0.0) >= rates.get("float32", 0.0)

    def builds(self) -> set[tuple[str, Value]]:
        return {(outcome.build_key, outcome.values["batch"]) for outcome in self.outcomes}

    def rejected(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.status == "rejected"]


@contextmanager
def one_core() -> Iterator[None]:
    """Keep what is started here on one core."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    yield
    os.sched_setaffinity(0, usable)


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def study(
    machine: Machine, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Study]:
    with one_core() if request.param == "cpu" else machine.alone():
        yield Study(request.param, tmp_path_factory.mktemp("studies"))


pytestmark = [pytest.mark.slow, pytest.mark.own_core]


def test_it_ends_by_itself_in_time(study: Study) -> None:
    assert study.first_run_s < LIMITS[0][0] + MAX_OVERTIME_S


def test_it_records_many_trials_from_several_builds(study: Study) -> None:
    assert len(study.outcomes) >= MIN_TRIALS
    assert len(study.builds()) >= MIN_BUILDS


def test_a_graph_break_is_rejected_at_its_line(study: Study) -> None:
    verdicts = [outcome.build.verdict for outcome in study.rejected() if outcome.build and outcome.build.verdict]
    findings = [finding for verdict in verdicts for finding in verdict.findings]
    assert any(f.kind == "graph break" and "first_block_cache.py:" in f.source for f in findings)
    for outcome in study.rejected():
        assert list((study.folder / f"trials/{outcome.number:04}").glob("*.trace.json.gz"))


def test_the_choice_is_cheaper_and_as_good(study: Study) -> None:
    best = study.best
    assert len(best.front) >= MIN_FRONT
    assert best.speed_up_confirmed
    assert best.chosen.quality_difference.low >= -best.quality_tolerance
    skip_without_gain(study)
    assert best.chosen.cost_usd_per_1000_images < best.baseline.cost_usd_per_1000_images
    assert {"compile.scope", "steps"} <= set(best.chosen.values)


def test_the_baseline_is_measured_in_several_processes(study: Study) -> None:
    repeats = [read(path, Outcome) for path in study.folder.glob("repetitions/*/outcome.json")]
    for trial in {0, study.best.chosen.trial}:
        processes = 1 + sum(outcome.number == trial for outcome in repeats)  # its trial was the first
        assert processes >= 2


def test_what_compiling_rounds_is_asked_for_where_it_shows(study: Study) -> None:
    late = read(study.folder / "trials" / "0000" / "noise_floor.json", NoiseFloor)
    assert set(late.variations) == ({"compiled with emulated casts"} if study.device == "cuda" else set())
    assert bool(late.unavailable_reasons) == (study.device == "cpu")


def test_the_report_shows_what_was_found(study: Study) -> None:
    printed = study.process.stdout
    assert "(chosen)" in printed
    assert "graph break" in printed
    assert str(study.folder / "best_config.json") in printed.replace("\n", "")


def test_tensorboard_can_show_it(study: Study) -> None:
    trials = study.folder / "trials"
    assert all(list(folder.glob("events.out.tfevents.*")) for folder in trials.iterdir())
    assert list((trials / "0000").glob("*.pt.trace.json.gz"))
    baseline = study.outcomes[0].quality
    assert baseline is not None
    assert len(list((trials / "0000" / "images").glob("*.png"))) == len(baseline.scores)


def test_the_same_command_has_nothing_left_to_do(study: Study) -> None:
    before = {path: path.read_bytes() for path in study.folder.glob("trials/*/outcome.json")}
    again = subprocess.run(study.command, capture_output=True, timeout=120)
    assert again.returncode == 0
    assert {path: path.read_bytes() for path in study.folder.glob("trials/*/outcome.json")} == before
    best = read(study.folder / "best_config.json", BestConfig)
    assert (best.chosen, best.front, best.speed_up) == (study.best.chosen, study.best.front, study.best.speed_up)


def test_fresh_processes_reproduce_the_chosen_gain(study: Study) -> None:
    skip_without_gain(study)
    config = study.folder / "best_config.json"
    steps = str(study.best.baseline.values["steps"])
    gains: list[float] = []
    while len(gains) < MAX_TURNS and not is_reproduced(gains, study):
        untouched, tuned = in_a_fresh_process(config, "untouched", steps), in_a_fresh_process(config, "tuned")
        assert tuned["count"] == study.best.chosen.batch
        assert tuple(tuned["size"]) == (study.best.workload.width, study.best.workload.height)
        gains.append(untouched["s_per_image"] / tuned["s_per_image"])
    assert is_reproduced(gains, study), gains


def is_reproduced(gains: list[float], study: Study) -> bool:
    """Whether what was recorded lies between the least and the most of the gains, which are one on average."""
    recorded, tolerance = study.best.speed_up, 0.03 if study.device == "cuda" else 0.10
    return (
        bool(gains)
        and recorded.low * (1 - tolerance) <= max(gains)
        and recorded.high * (1 + tolerance) >= min(gains)
        and prod(gains) > 1  # on average, on a scale of ratios
    )


def skip_without_gain(study: Study) -> None:
    """Skip a test of the gain where none can be expected and the baseline was kept."""
    if study.best.chosen.trial == study.best.baseline.trial and not study.has_quick_half_precision():
        pytest.skip("this CPU has no instructions for bfloat16; nothing was certainly faster, the baseline was kept")


def all_threads() -> dict[str, str]:
    """The environment without the limit that tests put on each other."""
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


def in_a_fresh_process(config: Path, *arguments: str) -> dict[str, Any]:
    process = subprocess.run(
        [sys.executable, "-c", TIME_A_PIPELINE, str(config), *arguments],
        capture_output=True,
        text=True,
        timeout=400,
        env=all_threads() | {"TORCHINDUCTOR_CACHE_DIR": str(config.parent / "cache" / "inductor")},
    )
    assert process.returncode == 0, process.stderr
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result

"""The program that fills the table of knobs against measured time: its plan, and a small run of it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import bench_knobs
import msgspec
import pipelines
import pytest
from knobs_bench import measuring
from knobs_bench.children import Child, alive
from knobs_bench.plan import catalogue, plan, trial
from knobs_bench.room import Room
from knobs_bench.rows import Result, key
from knobs_bench.table import console, table
from test_space import H200

from tuner.knobs import KNOBS
from tuner.model import architecture
from tuner.records.text import shown


@pytest.mark.parametrize("family", ["flux", "sdxl"])
def test_every_value_is_in_the_plan_once_or_refused_with_a_reason(family: str) -> None:
    here = msgspec.structs.replace(H200, libraries={**H200.libraries, "diffusers": "0.42.1"})
    kind = architecture.from_pipeline(pipelines.build(family, empty=True))
    trials, refused = plan(kind, here)
    planned = [trial.name for trial in trials if trial.base is not None]
    space = catalogue(kind, here)
    values = {
        f"{name}={shown(value)}"
        for name, knob in KNOBS.items()
        for value in knob.choices
        if value != space.baseline[name]
    }
    assert sorted([*planned, *refused]) == sorted(values)
    assert all(reason.strip() for reason in refused.values())
    known = {key(trial.values, trial.what) for trial in trials}
    assert len(known) == len(trials)
    assert all(trial.compared_with in known for trial in trials if trial.base is not None)
    assert all(space.conflict_reason(trial.values) is None for trial in trials)


@pytest.mark.slow
def test_a_small_run_measures_and_writes_its_table(tmp_path: Path) -> None:
    command = [
        sys.executable,
        bench_knobs.__file__,
        "--tiny",
        "--device",
        "cpu",
        "--parallel",
        "2",
        "--out",
        str(tmp_path),
    ]
    only = ["--only", "fuse_qkv", "vae.channels_last", "steps=6", "batch=4"]
    done = subprocess.run([*command, *only], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "knobs-flux.jsonl").read_bytes().splitlines()
    results = {result.trial.name: result for line in lines if (result := msgspec.json.decode(line, type=Result))}
    assert results.keys() >= {"fuse_qkv=true", "vae.channels_last=true", "steps=6", "batch=4", "(untouched), step"}
    assert all(result.failure is None and (result.seconds or 0) > 0 for result in results.values()), done.stdout
    assert "attention layers fused" in results["fuse_qkv=true"].changes["fuse_qkv"]
    written = (tmp_path / "knobs-flux.md").read_text()
    assert "| steps=6 | untouched | whole call |" in written
    assert f"0 of {len(results)} failed" in written


def test_one_that_dies_when_its_turn_has_come_ends_only_itself(tmp_path: Path) -> None:
    def dies(tell: int, handle: int) -> None:
        os.write(tell, b'{"stage": "ready", "at": 1.0}\n')

    pipe = pipelines.build("flux", empty=True)
    given = argparse.Namespace(fork=True, weights=False, tiny=True, budget=60, family="flux", out=tmp_path)
    space = catalogue(architecture.from_pipeline(pipe), H200)
    row = trial(space, "steps=6", {"steps": 6}, "step", {})
    room = Room(given, H200, pipe, tmp_path)
    child = Child(row.name, given, tmp_path / "log", dies)
    while alive(child.pid):
        time.sleep(0.01)
    child.stage = "ready"
    room.building[row.name] = (row, child)
    room.take_turns([row.name])
    (result,) = room.results
    assert result.failure == "crash (ready): it ended without a result"
    assert room.building == {}


@pytest.mark.parametrize(
    ("products_s", "timings"),
    [
        ([1.0] * 5, 1),
        ([2.0, 2.0, 2.0, 2.0, 1.2], 1),  # hot, and recovering
        ([2.0] * 5 + [1.0] * 5, 2),
        ([2.0] * 100, None),
    ],
)
def test_a_row_is_timed_until_the_gpu_is_its_own(
    products_s: list[float], timings: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = argparse.Namespace(product_s=1.0, tiny=True, family="flux")
    space = catalogue(architecture.from_pipeline(pipelines.build("flux", empty=True)), H200)
    bench = measuring.Bench(given, H200, trial(space, "steps=6", {"steps": 6}, "step", {}), None, lambda **said: None)
    left, made = iter(products_s), 0

    def timed() -> tuple[float, list[float]]:
        nonlocal made
        made += 1
        return float(made), []

    monkeypatch.setattr(measuring, "product_s", lambda: next(left))
    monkeypatch.setattr(measuring, "PAUSE_S", 0.0)
    monkeypatch.setattr(bench, "timed", timed)
    monkeypatch.setattr(bench, "settle", lambda: None)
    if timings is None:
        with pytest.raises(RuntimeError, match="busy with something else after each of 4 timings"):
            bench.undisturbed()
        assert made == measuring.MAX_TIMINGS
    else:
        assert bench.undisturbed() == (float(timings), [])


def test_a_value_that_fails_stays_in_the_table() -> None:
    space = catalogue(architecture.from_pipeline(pipelines.build("flux", empty=True)), H200)
    plain = trial(space, "(untouched), step", {}, "step", None)
    fused = trial(space, "fuse_qkv=true", {"fuse_qkv": True}, "step", {})
    quick = trial(space, "text.sequence_length=64", {"text.sequence_length": 64}, "step", {})
    rows = table([
        Result(trial=quick, seconds=0.1, peak_bytes=2 * 10**9),
        Result(trial=fused, failure="out of memory (warm up): a reason"),
        Result(trial=plain, seconds=0.2),
    ])  # fmt: skip
    assert [row[0] for row in rows] == ["(untouched), step", "fuse_qkv=true", "text.sequence_length=64"]
    assert rows[1][3:5] == ("out of memory (warm up): a reason", "")
    assert rows[2][3:6] == ("100.0", "2.00", "2.0")
    assert "out of memory (warm up): a reason" in console(rows)

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
from test_space import H200

from tuner import architecture
from tuner.knobs import KNOBS
from tuner.space import show


@pytest.mark.parametrize("family", ["flux", "sdxl"])
def test_every_value_is_in_the_plan_once_or_refused_with_a_reason(family: str) -> None:
    here = msgspec.structs.replace(H200, libraries={**H200.libraries, "diffusers": "0.42.1"})
    kind = architecture.of(pipelines.build(family, empty=True))
    trials, refused = bench_knobs.plan(kind, here)
    planned = [trial.name for trial in trials if trial.base is not None]
    space = bench_knobs.catalogue(kind, here)
    values = {
        f"{name}={show(value)}"
        for name, knob in KNOBS.items()
        for value in knob.choices
        if value != space.baseline[name]
    }
    assert sorted([*planned, *refused]) == sorted(values)
    assert all(reason.strip() for reason in refused.values())
    known = {bench_knobs.key(trial.values, trial.what) for trial in trials}
    assert len(known) == len(trials)
    assert all(trial.compared_with in known for trial in trials if trial.base is not None)
    assert all(space.refusal(trial.values) is None for trial in trials)


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
    results = {
        result.trial.name: result for line in lines if (result := msgspec.json.decode(line, type=bench_knobs.Result))
    }
    assert results.keys() >= {"fuse_qkv=true", "vae.channels_last=true", "steps=6", "batch=4", "(untouched), step"}
    assert all(result.failure is None and (result.seconds or 0) > 0 for result in results.values()), done.stdout
    assert "attention layers fused" in results["fuse_qkv=true"].changes["fuse_qkv"]
    table = (tmp_path / "knobs-flux.md").read_text()
    assert "| steps=6 | untouched | whole call |" in table
    assert f"0 of {len(results)} failed" in table


def test_one_that_dies_when_its_turn_has_come_ends_only_itself(tmp_path: Path) -> None:
    def dies(tell: int, hear: int) -> None:
        os.write(tell, b'{"stage": "ready", "at": 1.0}\n')

    pipe = pipelines.build("flux", empty=True)
    given = argparse.Namespace(fork=True, weights=False, tiny=True, budget=60, family="flux", out=tmp_path)
    space = bench_knobs.catalogue(architecture.of(pipe), H200)
    trial = bench_knobs.trial(space, "steps=6", {"steps": 6}, "step", {})
    room = bench_knobs.Room(given, H200, pipe, tmp_path)
    child = bench_knobs.Child(trial.name, given, tmp_path / "log", dies)
    while bench_knobs.alive(child.pid):
        time.sleep(0.01)
    child.stage = "ready"
    room.building[trial.name] = (trial, child)
    room.take_turns([trial.name])
    (result,) = room.results
    assert result.failure == "crash (ready): it ended without a result"
    assert room.building == {}


def test_a_value_that_fails_stays_in_the_table() -> None:
    space = bench_knobs.catalogue(architecture.of(pipelines.build("flux", empty=True)), H200)
    plain = bench_knobs.trial(space, "(untouched), step", {}, "step", None)
    fused = bench_knobs.trial(space, "fuse_qkv=true", {"fuse_qkv": True}, "step", {})
    quick = bench_knobs.trial(space, "text.sequence_length=64", {"text.sequence_length": 64}, "step", {})
    rows = bench_knobs.table([
        bench_knobs.Result(trial=quick, seconds=0.1, peak_bytes=2 * 10**9),
        bench_knobs.Result(trial=fused, failure="out of memory (warm up): a reason"),
        bench_knobs.Result(trial=plain, seconds=0.2),
    ])  # fmt: skip
    assert [row[0] for row in rows] == ["(untouched), step", "fuse_qkv=true", "text.sequence_length=64"]
    assert rows[1][3:5] == ("out of memory (warm up): a reason", "")
    assert rows[2][3:6] == ("100.0", "2.00", "2.0")
    assert "out of memory (warm up): a reason" in bench_knobs.console(rows)

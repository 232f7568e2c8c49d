"""tests/bench_peers.py: rounds in turned order, one table, and each peer that does not run with its reason."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import bench_peers
import numpy as np
import pytest
from bench_peers import CACHE_DIT, PEERS, Peer, Row, arguments_of, compare, images_of, python_of, run, table
from peers_bench.recipes import RECIPES

JOB: dict[str, Any] = {"model": "nowhere", "call": {}, "prompt": "a", "calls": 1, "warm_ups": 0, "exported": ""}


def measured(*seconds: float, joules: float | None = None) -> dict[str, Any]:
    state = {"joules": joules, "clock_mhz": joules and 1650.0, "power_w": joules and 687.0}
    return {"first_image_s": 10.0, "seconds": list(seconds), "batch": 1, "versions": {"torch": "2"}, **state}


def test_every_peer_has_a_recipe_and_no_name_twice() -> None:
    assert {peer.recipe for peer in PEERS} == RECIPES.keys()
    assert len({peer.name for peer in PEERS}) == len(PEERS)


def test_the_table_has_intervals_ratios_energy_and_who_did_not_run(tmp_path: Path) -> None:
    rows = [
        Row(PEERS[0], [measured(2.0, 2.1), measured(2.2, 2.0)]),
        Row(PEERS[4], [measured(1.0, 1.1, joules=600.0), measured(1.1, 1.0, joules=610.0)]),
        Row(PEERS[-1], reason="no exported file was given (--ours)"),
    ]
    np.save(images_of(rows[0], tmp_path), np.ones((2, 4)))
    np.save(images_of(rows[1], tmp_path), np.full((2, 4), 1.1))
    text = "\n".join(table(rows, tmp_path))
    assert "| diffusers | 2.075 [1.757, 2.393]" in text, "of two rounds, whatever the number of their calls"
    assert "| cache-dit, no cache | 1.050 [" in text and "| 10.0% | 10.0 | 10.0 |" in text
    (ours,) = [line for line in text.splitlines() if line.startswith("| cache-dit")]
    assert "| 1.98 [" in ours, "the geometric mean of 2.05 / 1.05 and 2.1 / 1.05"
    assert ours.endswith("| 605 | 1,650 | 687 |")
    assert text.endswith("- ours: no exported file was given (--ours)")


def test_rounds_turn_the_order_and_leave_out_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    def ran(row: Row, *_: Any) -> None:
        order.append(row.peer.name)
        row.reason = "broke" if row.peer.name == "b" else ""
        row.rounds.append(measured(1.0))

    monkeypatch.setattr(bench_peers, "run", ran)
    rows = [Row(Peer(name, "defaults")) for name in "abc"]
    (tmp_path / "caches" / "a").mkdir(parents=True)
    compare(rows, arguments_of(["--out", str(tmp_path), "--rounds", "2"]), JOB)
    assert not (tmp_path / "caches").exists(), "what an earlier run compiled"
    assert "".join(order) == "abcca"


def test_a_process_that_fails_or_hangs_is_a_reason(tmp_path: Path) -> None:
    failed, hung = Row(Peer("x", "ours")), Row(Peer("y", "ours"))
    broken, endless = tmp_path / "broken.py", tmp_path / "endless.py"
    broken.write_text("raise ValueError('no such layer')")
    endless.write_text("import time; time.sleep(60)")
    run(failed, sys.executable, JOB | {"exported": str(broken)}, tmp_path, 60)
    run(hung, sys.executable, JOB | {"exported": str(endless)}, tmp_path, 1)
    assert (failed.reason, hung.reason) == ("ValueError: no such layer", "no end within 1 s")
    assert not failed.rounds and not hung.rounds


EXPORTED = """
import time
from types import SimpleNamespace

BATCH, ARGUMENTS = 2, {"num_inference_steps": 7}
class Pipe:
    def set_progress_bar_config(self, disable): pass
    def __call__(self, prompt, generator, num_inference_steps):
        return SimpleNamespace(images=[[num_inference_steps, len(prompt)]] * len(generator))
def load():
    time.sleep(0.5)
    return Pipe()
"""


def test_the_exported_file_is_called_as_it_says_and_timed_from_the_process_s_start(tmp_path: Path) -> None:
    row, exported = Row(Peer("x", "ours")), tmp_path / "exported.py"
    exported.write_text(EXPORTED)
    begun = time.monotonic()
    run(row, sys.executable, JOB | {"exported": str(exported)}, tmp_path, 60)
    assert not row.reason and row.rounds[0]["batch"] == 2
    assert np.load(images_of(row, tmp_path)).tolist() == [[7.0, 2.0]]
    assert row.rounds[0]["first_image_s"] > 0.6 * (time.monotonic() - begun), "importing torch is a part of it"


def test_what_pip_cannot_install_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    _, reason = python_of(Peer("x", "cache_dit", ("no-such-package-at-all==1",)), tmp_path, 120)
    assert reason.startswith("cannot be installed: ERROR: No matching distribution")
    assert python_of(Peer("x", "defaults"), tmp_path, 1) == (sys.executable, "")
    assert CACHE_DIT[0].count("==") == 1

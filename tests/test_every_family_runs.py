"""`tune run` on the tiny pipeline of every family ends with a front.

TUNER_BUDGET_S sets how long each may take: the usual one is for two CPU cores that have nothing else to do.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pipelines
import pytest

from tuner.records.codec import read
from tuner.records.outcome import Outcome
from tuner.result.records import BestConfig

pytestmark = [pytest.mark.exhaustive, pytest.mark.slow]

BUDGET_S = int(os.environ.get("TUNER_BUDGET_S", "240"))
PROMPTS = ["a red cat", "the blue dog", "one green bird", "a fish in the sea"]


def settings(family: str) -> list[str]:
    """The workload at the size that a tiny pipeline draws, and few steps."""
    call = {"height": 32, "width": 32} | pipelines.CALL.get(family, {})
    fields = {name: call.pop(name) for name in ("height", "width", "num_frames") if name in call}
    given = {f"workload.{name}": value for name, value in fields.items()}
    given |= {"workload.prompts": PROMPTS, "workload.arguments": call, "baseline.steps": 6, "steps": [6, 4, 2]}
    return [part for name, value in given.items() for part in ("--set", f"{name}={json.dumps(value)}")]


@pytest.mark.parametrize("family", pipelines.FAMILIES)
def test_a_study_ends_with_a_front(
    family: str, pipeline_folder: Callable[[str], Path], tiny_scorer: Path, tmp_path: Path
) -> None:
    command = ["tune", "run", str(pipeline_folder(family)), "--device", "cpu", "--scorer", str(tiny_scorer),
               "--budget", f"{BUDGET_S}s", "--out", str(tmp_path), *settings(family)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=5 * BUDGET_S, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = tmp_path.iterdir()
    best = read(folder / "best_config.json", BestConfig)
    assert best.front
    outcomes = [read(path, Outcome) for path in folder.glob("trials/*/outcome.json")]
    assert len({outcome.build_key for outcome in outcomes}) >= 2
    failed = [outcome.failure for outcome in outcomes if outcome.failure is not None]
    assert not [failure for failure in failed if failure.kind not in ("timeout", "interrupted")], failed

"""What is tuned: each family's pipeline, the options of `tune run`, and what is asked of its study."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent

SHORT_PROMPTS = ("a red cat", "the blue dog", "one green bird", "a fish in the sea")
TINY = {
    "workload.height": 32,
    "workload.width": 32,
    "workload.prompts": SHORT_PROMPTS,
    "baseline.steps": 6,
    "steps": [6, 4, 2],
}
"""What a tiny pipeline can draw, in a moment."""

PARENT = {"parent's CPU time": 0.01}


@dataclass(frozen=True)
class Family:
    """A pipeline of tests/pipelines.py by its name there; without a name it is the demo of the package.

    `asked` has the limits of figures by name; `within` is the budget that they are asked for.
    """

    pipeline: str | None
    within: str
    size: str = "full"
    asked: Mapping[str, float] = field(default_factory=dict)


FAMILIES: dict[str, Family] = {
    "flux": Family(
        "flux",
        "20m",
        asked={
            "builds": 20,
            "first confirmed gain": 300,
            "gain with the untouched steps": 1.7,
            "device at work": 0.8,
            "start of a worker": 5,
            "repetition": 25,
            **PARENT,
        },
    ),
    "sdxl": Family("sdxl", "20m", asked={"builds": 15, "whole compiles": 1, "chosen call": 1.65, **PARENT}),
    "wan": Family("wan", "30m", asked={"builds timed": 8, "gain with the untouched steps": 1.4, **PARENT}),
    "tiny": Family("flux", "5m", size="tiny", asked=PARENT),
    "demo": Family(None, "330s", size="tiny", asked={"builds": 9, **PARENT}),
}


def command(family: Family, size: str, folder: Path, budget: str, more: Sequence[str]) -> list[str]:
    """`tune run` as a user would type it."""
    words = [sys.executable, "-m", "tuner", "run"]
    if family.pipeline is not None:
        words += [str(folder / "model"), "--scorer", "demo"]
        settings = TINY if size == "tiny" else {}
        words += [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    return [*words, "--budget", budget, "--out", str(folder), "--study", "study", *more]


def make(family: Family, size: str, folder: Path, log: Path) -> subprocess.Popen[bytes] | None:
    """Start to write the pipeline; None if it is there. `made` ends this."""
    if family.pipeline is None or (folder / "model").exists():
        return None
    words = [sys.executable, str(TESTS / "pipelines.py"), family.pipeline, str(folder / "model.part"), "--size", size]
    with log.open("ab") as file:
        return subprocess.Popen(words, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True)


def made(folder: Path) -> None:
    """Give the whole pipeline its name."""
    (folder / "model.part").rename(folder / "model")


def environment(**more: str) -> dict[str, str]:
    """The environment of the command: this checkout of the package, and nothing from the network."""
    path = os.pathsep.join(filter(None, (str(TESTS.parent), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", **more}

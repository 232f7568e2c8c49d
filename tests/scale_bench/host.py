"""The host that is measured: its GPUs, or a CPU that passes for several devices, and studies on some of them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from study_bench.families import FAMILIES, command, environment, made, make

from tuner.execution.launch import ANYWHERE, Place
from tuner.hardware import gpus
from tuner.records.codec import read
from tuner.records.outcome import Outcome
from tuner.records.stages import END, read_stages

TUNE_ON = Path(__file__).with_name("tune_on.py")


@dataclass(frozen=True)
class Host:
    """So many devices, cuda or cpu, in whose folder pipelines and studies lie. `size` is that of the pipelines."""

    devices: int
    device: str
    folder: Path
    size: str
    budget: str

    def model(self, family: str) -> Path:
        """Write a family's pipeline, unless it is there, and return the folder that has it."""
        folder = self.folder / family
        folder.mkdir(parents=True, exist_ok=True)
        process = make(FAMILIES[family], self.size, folder, folder / "model.log")
        if process is not None:
            if process.wait() != 0:
                raise RuntimeError(f"the pipeline could not be written, see {folder / 'model.log'}")
            made(folder)
        return folder

    def tune(self, family: str, devices: int, name: str, *more: str) -> subprocess.Popen[bytes]:
        """Start a study of a family on so many devices. Its folder is `name` beside the pipeline."""
        folder = self.model(family)
        on_cpu = self.device == "cpu"
        where = ("--device", "cpu") if on_cpu else ("--gpus", str(devices))
        words = command(FAMILIES[family], self.size, folder, self.budget, [*where, *more])
        words[words.index("study")] = name
        pretended = {"SCALE_DEVICES": str(devices)} if on_cpu else {}
        (folder / f"{name}-hidden").mkdir(exist_ok=True)
        with (folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(TUNE_ON), *words[3:]], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment(SCALE_HIDDEN=str(folder / f"{name}-hidden"), **pretended),
            )  # fmt: skip

    def places(self, devices: int) -> list[Place]:
        """Where the workers of each of so many devices run, as in a study."""
        if self.device == "cpu":
            return [ANYWHERE] * devices
        visible = gpus.visible_gpus()[: self.devices]
        cores = gpus.share_cores([gpu.near for gpu in visible], frozenset(os.sched_getaffinity(0)))
        return [Place(gpu.uuid, own) for gpu, own in zip(visible, cores, strict=True)][:devices]

    def study(self, family: str, name: str) -> Path:
        """The folder of a study."""
        return self.folder / family / name


def outcomes(study: Path) -> dict[Path, Outcome]:
    """Everything that a study has acknowledged."""
    return {file: read(file, Outcome) for file in study.glob("*/*/outcome.json")}


def trials_a_minute(study: Path) -> float:
    """Trials that were recorded in a minute of the search, from the start of its first build to the end of the last."""
    entries = [e for e in read_stages(study / "stages.jsonl") if e.who == "build" and e.number > 0]
    ends = [entry.at_s for entry in entries if entry.stage == END]
    searched = [o for o in outcomes(study).values() if o.purpose in ("recipe", "search")]
    return 60.0 * len(searched) / (max(ends) - min(entry.at_s for entry in entries))

"""A Ray cluster on this machine whose nodes run simulated workers, and an actor that does harm to itself."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tuner.execution import launch
from tuner.execution.launch import FreshLauncher, Launcher, Place
from tuner.execution.ray import cluster
from tuner.execution.ray.actor import DeviceActor, Found, own_version
from tuner.hardware import environment
from tuner.records.codec import encode
from tuner.records.protocol import Job

PROGRAM = "simulated_worker.py"
"""In a study's folder, or beside it: what its workers run."""

BROKEN = "broken"
"""In a study's folder: no job can be taken."""

UNSEEN = "unseen"
"""In a study's folder: nodes do as if they saw neither this nor the model."""

WORKER = """
import json, os, sys, time, zlib
job, pipe = json.load(open(sys.argv[1])), int(sys.argv[2])
PNG = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d7"
                    "63f8cfc0000003010100c9fe92ef0000000049454e44ae426082")

def say(type, **fields):
    os.write(pipe, json.dumps({"type": type, **fields}).encode() + b"\\n")

def exactly(value):
    return {"value": value, "low": value, "high": value}

for stage in ("load", "compile", "trace"):
    say("stage", stage=stage)
    time.sleep(STAGE_S)
assert os.listdir(job["model"]["source"]), "the model"
say("build", build={"changes": {}, "load_s": 0.1, "apply_s": 0.1, "first_call_s": 0.1, "trace": None, "verdict": None})
luck = zlib.crc32(json.dumps(job["build"], sort_keys=True).encode()) % 1000 / 1000
reference, first = job["reference"], 0.0
if reference:
    assert len(os.listdir(reference["images"])) == len(job["workload"]["prompts"]), "the baseline's images"
for point in job["points"]:
    if point["spot_check"]:
        assert os.listdir(point["spot_check"]["images"]), "another trial's images"
    say("stage", stage="time", index=point["index"])
    say("turn_wanted")
    os.read(0, 1)
    time.sleep(STAGE_S)
    say("turn_ended")
    seconds, mean = 0.01 * point["steps"] * point["batch"] * (0.5 + luck), 20 + 0.01 * point["steps"] - 0.1 * luck
    quality = None
    if point["score"]:
        os.makedirs(point["folder"] + "/images", exist_ok=True)
        for index in range(len(job["workload"]["prompts"])):
            open(f"{point['folder']}/images/{index:04}.png", "wb").write(PNG)
        first = first or mean
        difference = mean - (reference["scores"][0] if reference else first)
        quality = {"metric": "clip_score", "scores": [mean] * len(job["workload"]["prompts"]), "mean": mean,
                   "difference": exactly(difference), "psnr_db": None, "ssim": None}
    print("worker", os.getpid(), "was here", file=sys.stderr, flush=True)
    timing = {"latency_s": exactly(seconds), "samples": 6, "images_per_s": point["batch"] / seconds,
              "stopped": "interval within target"}
    say("point", index=point["index"], timing=timing, memory={"peak_bytes": 1 << 20, "reserved_bytes": None},
        quality=quality)
"""
"""What a worker of a study says and writes, without any import that takes time."""


class SimulatedActor(DeviceActor):
    """An actor whose workers run the program in the study's folder."""

    def sees(self, nonce: Path, run: str) -> bool:
        return super().sees(nonce, run) and not (nonce.parent / UNSEEN).exists()

    def has(self, path: str) -> bool:
        return super().has(path) and not (Path(self.setup.study) / UNSEEN).exists()

    def describe(self, kind: str, devices: int) -> bytes:
        """Return what there is; GPUs are made up."""
        if kind == "cpu":
            return super().describe(kind, devices)
        import ray

        made_up, here = ray.get_gpu_ids(), environment.detect("cpu", devices=devices)
        found = Found(version=own_version(), environment=here, gpus=tuple(map(str, made_up)), index=int(made_up[0]))
        return encode(found)

    def launcher(self, place: Place) -> Launcher:
        study = Path(self.setup.study)
        program = next(folder / PROGRAM for folder in (study, study.parent) if (folder / PROGRAM).exists())
        launch.WORKER = (sys.executable, "-S", str(program))
        assert self.scratch is not None
        return FreshLauncher(self.scratch.folder / "cache", place)

    def local(self, job: Job) -> Job:
        if (Path(self.setup.study) / BROKEN).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().local(job)

    def threads(self) -> str | None:
        return os.environ.get("OMP_NUM_THREADS")

    def pid(self) -> int:
        return os.getpid()


@contextmanager
def started(nodes: int = 3, cpus: int = 1, gpus: int = 0) -> Iterator[Any]:
    """A cluster of so many nodes. Their GPUs are made up."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    quiet = {"num_cpus": cpus, "num_gpus": gpus, "include_log_monitor": False}
    with actors_of(SimulatedActor):
        found = Cluster(initialize_head=True, head_node_args={**quiet, "include_dashboard": False})
        try:
            for _ in range(nodes - 1):
                found.add_node(**quiet)
            yield found
        finally:
            import ray

            ray.shutdown()
            found.shutdown()


@contextmanager
def actors_of(kind: type[DeviceActor]) -> Iterator[None]:
    """Actors are of this kind, and nodes that are started can import it."""
    path = [str(Path(__file__).parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        patch.setattr(cluster, "ACTOR", kind)
        yield

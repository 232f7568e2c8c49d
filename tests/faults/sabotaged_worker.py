"""`python -m tuner.worker` with a fault planted in it, and with the pipeline or without.

TUNER_FAULTS is JSON: which build of the study, counted from 1 ("3"), which repetition ("repetition 1"), or "*" for all
workers, to FAULT@STAGE; the fault strikes when the worker enters the stage. With TUNER_SIMULATED no pipeline is built:
figures and images are made up, all the rest is real.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import zlib
from pathlib import Path

from tuner.records.codec import Estimate, encode
from tuner.records.gate import Finding, Verdict
from tuner.records.machine import Memory
from tuner.records.outcome import Build, Timing
from tuner.records.protocol import BuildDone, Job, Point, PointDone
from tuner.records.quality import Quality
from tuner.worker import __main__
from tuner.worker.channel import Channel
from tuner.worker.weights import Weights

worker_main = __main__.main
"""As it is, since a template whose workers are sabotaged has this module's in its place."""

STAGE_S = float(os.environ.get("TUNER_STAGE_S", "0.02"))
TURN_S = float(os.environ.get("TUNER_TURN_S", str(STAGE_S)))


class Saboteur(Channel):
    """The channel of a worker to which something happens on the way."""

    fault, stage_of_fault = "", ""

    def enter(self, stage: str, index: int | None = None) -> None:
        super().enter(stage, index)
        if stage == self.stage_of_fault:
            FAULTS[self.fault](self)


def close_and_hang(channel: Channel) -> None:
    os.close(channel.descriptor)
    time.sleep(3600)


def leave_grandchild(channel: Channel) -> None:
    """End without a word, but leave a process in a session of its own, adopted by another, with the pipe open."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(3600)
        os._exit(0)
    os.wait()
    os._exit(9)


def fill_disk(_: object = None) -> None:
    """Leave not one byte free on the disk that TUNER_DISK names."""
    with (Path(os.environ["TUNER_DISK"]) / "ballast").open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue


def missing_package(_: object) -> None:
    sys.modules["diffusers"] = None  # type: ignore[assignment]


FAULTS = {
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "segv": lambda _: ctypes.string_at(0),
    "abort": lambda _: os.abort(),
    "exit 0": lambda _: os._exit(0),
    "exit 3": lambda _: os._exit(3),
    "stop": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "sleep": lambda _: time.sleep(3600),
    "close": close_and_hang,
    "grandchild": leave_grandchild,
    "garbage": lambda channel: os.write(channel.descriptor, b'{"type":"point","index":0,"timing":null}\n'),
    "missing package": missing_package,
    "disk": fill_disk,
}


def simulate(job: Job, channel: Saboteur, *_: object) -> None:
    """What worker.run says and writes, without the work. Figures follow from the configuration alone."""
    for stage in ("load", "apply", "compile", "warm up", "trace"):
        channel.enter(stage)
        time.sleep(STAGE_S)
    # The gate's rejection would end the worker before a fault in a later stage could strike.
    gate = Verdict(status="clean") if channel.stage_of_fault else verdict(job)
    build = Build(changes={}, load_s=STAGE_S, apply_s=STAGE_S, first_call_s=STAGE_S, trace=None, verdict=gate)
    channel.send(BuildDone(build=build))
    if gate.status == "rejected":
        return
    reference = job.reference.scores[0] if job.reference else score(job, job.points[0])
    for point in job.points:
        channel.enter("time", point.index)
        with channel.turn():
            time.sleep(TURN_S)
        channel.enter("score", point.index)
        draw(job, point)
        channel.stage = "sent"
        if channel.stage_of_fault == "sent":
            FAULTS[channel.fault](channel)
        channel.send(done(job, point, reference))


def verdict(job: Job) -> Verdict:
    if job.build.get("compile.scope") == "full" and job.build.get("cache.kind") == "first-block":
        found = Finding(
            kind="graph break", count=3, count_per_step=1.0, idle_ms_per_step=None, operator="item", reason="a break",
            source="model.py:1",
        )  # fmt: skip
        return Verdict(status="rejected", findings=(found,))
    return Verdict(status="clean")


def draw(job: Job, point: Point) -> None:
    from PIL import Image

    folder = Path(point.folder) / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(len(job.workload.prompts)):
        Image.frombytes("RGB", (64, 64), os.urandom(64 * 64 * 3)).save(folder / f"{index:04}.png")


def luck_of(job: Job) -> float:
    return zlib.crc32(encode(dict(sorted(job.build.items())))) % 1000 / 1000


def score(job: Job, point: Point) -> float:
    return 20 + 0.01 * point.steps - 0.1 * luck_of(job)


def done(job: Job, point: Point, reference: float) -> PointDone:
    luck = luck_of(job)
    seconds = 0.01 * point.steps * point.batch * (0.5 + luck)
    mean = score(job, point)
    difference = mean - reference
    exact = Estimate(value=seconds, low=seconds, high=seconds)
    quality = Quality(
        metric="clip_score", scores=(mean,) * len(job.workload.prompts), mean=mean,
        difference=Estimate(value=difference, low=difference, high=difference), psnr_db=None, ssim=None,
    )  # fmt: skip
    return PointDone(
        index=point.index,
        timing=Timing(latency_s=exact, samples=6, images_per_s=point.batch / seconds, stopped="interval within target"),
        memory=Memory(peak_bytes=1 << 20, reserved_bytes=None),
        quality=quality if point.score else None,
    )


def which(folder: Path) -> str:
    """Which build or repetition of the study a worker is, by its folder."""
    count = sum(job.parent.name <= folder.name for job in folder.parent.glob("*/job.json"))
    return str(count) if folder.parent.name == "trials" else f"repetition {count}"


def main(arguments: list[str], weights: Weights | None = None) -> int:
    """Run a job with the fault that was planted in it."""
    faults = json.loads(os.environ.get("TUNER_FAULTS", "{}"))
    planted = faults.get(which(Path(arguments[0]).parent)) or faults.get("*")
    if planted:
        Saboteur.fault, Saboteur.stage_of_fault = planted.split("@")
    __main__.Channel = Saboteur  # type: ignore[misc]
    if "TUNER_SIMULATED" in os.environ:
        __main__.run = simulate
    return worker_main(arguments, weights)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))

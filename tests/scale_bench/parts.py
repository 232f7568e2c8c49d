"""What is measured, each in a process of its own: figures by name."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from one_job import run_job
from study_bench.families import TESTS, environment

from scale_bench.host import Host, outcomes, trials_a_minute
from tuner.hardware import environment as machine
from tuner.knobs import KNOBS
from tuner.model import pipeline
from tuner.records.codec import Values
from tuner.records.protocol import Job, Point, PointDone
from tuner.space import reader
from tuner.space.candidates import build_values

Figures = dict[str, float | str]

LOST = 1
"""The device that is taken away."""

FROM_THERE = 2
"""Trials that were recorded on it before."""


def rate(host: Host, family: str) -> Figures:
    """Trials a minute on one device and on all, in studies of the same budget."""
    found: Figures = {}
    for devices in (1, host.devices):
        name = f"on-{devices}"
        if host.tune(family, devices, name).wait() != 0:
            raise RuntimeError(f"the study failed, see {host.folder / family / f'{name}.log'}")
        found[f"trials a minute, {devices}"] = trials_a_minute(host.study(family, name))
    found["ratio"] = float(found[f"trials a minute, {host.devices}"]) / float(found["trials a minute, 1"])
    return found


def false_gains(host: Host) -> Figures:
    """Comparisons of the untouched pipeline with itself that call a gain: on one device, then on all at once."""
    import bench_aa

    found: Figures = {}
    more = ["--processes", "16"] if host.size == "full" else ["--processes", "4", "--steps", "2", "--allowance", "0.5"]
    for devices in (1, host.devices):
        places = host.places(devices)
        files = [host.folder / f"aa-{devices}-{index}.json" for index in range(devices)]
        words = [sys.executable, str(TESTS / "bench_aa.py"), "--device", host.device, "--slowdown", "0", *more]
        running = []
        for place, file in zip(places, files, strict=True):
            with place.pinned():
                visible = environment(CUDA_VISIBLE_DEVICES=place.gpu or "")
                running.append(subprocess.Popen([*words, "--json", str(file)], env=visible))
        if sum(process.wait() for process in running):
            raise RuntimeError("a process of bench_aa.py failed")
        medians = [json.loads(file.read_text())["plain_s"] for file in files]
        gains = sum(bench_aa.gains(plain, plain) for plain in medians)
        found[f"false gains, {devices}"] = f"{gains} of {sum(map(len, medians))}"
        found[f"share of false gains, {devices}"] = gains / sum(map(len, medians))
    return found


def parallel(host: Host, family: str) -> Figures:
    """The latency of one call on all devices against the best that the study on one device found."""
    if "parallel.degree" not in KNOBS:
        raise RuntimeError("unavailable: this version has no knob parallel.degree")
    best = host.study(family, "on-1") / "best_config.json"
    if not best.exists():
        raise RuntimeError(f"unavailable: part rate-{family} comes first, which finds the best on one device")
    chosen = json.loads(best.read_text())["chosen"]["values"]
    spread: dict[str, object] = {"parallel.kind": "ulysses", "parallel.degree": host.devices}
    seconds = {}
    for name, changed in (("one", {}), ("all", spread)):
        done = timed(host, family, {**chosen, **changed}, host.folder / f"{family}-{name}")
        seconds[name] = done.timing.latency_s
    half = (seconds["all"].high - seconds["all"].low) / 2 / seconds["all"].value
    return {
        "seconds on one": seconds["one"].value, "seconds on all": seconds["all"].value,
        "ratio": seconds["one"].value / seconds["all"].value, "half interval on all": half,
    }  # fmt: skip


def timed(host: Host, family: str, values: Values, folder: Path) -> PointDone:
    """Whole calls of a configuration in a fresh process."""
    here = machine.detect(host.device)
    model, kind = pipeline.resolve(str(host.model(family) / "model"), None, "demo")
    space = reader.load(reader.find(None, kind, False), kind, here)
    candidate = space.candidate(values)
    steps, batch = int(candidate["steps"]), int(candidate["batch"])
    point = Point(index=0, folder=str(folder), steps=steps, batch=batch, score=False, whole=True)
    job = Job(
        model=model, environment=here, workload=space.workload, build=build_values(candidate), points=(point,),
        allowance_s=60.0, trace=False,
    )  # fmt: skip
    done = [message for message in run_job(job, folder / "cache") if isinstance(message, PointDone)]
    if not done:
        raise RuntimeError(f"no result, see {folder / 'worker.log'}")
    return done[0]


def lost_device(host: Host, family: str) -> Figures:
    """A device is taken away in the middle of a study: all that runs there is killed, and the device hidden."""
    process = host.tune(family, host.devices, "lost")
    study = host.study(family, "lost")
    while sum(o.device is not None and o.device.index == LOST for o in outcomes(study).values()) < FROM_THERE:
        if process.poll() is not None:
            raise RuntimeError(f"the study ended before, see {host.folder / family / 'lost.log'}")
        time.sleep(0.2)
    before = outcomes(study)
    uuid = next(o.device.uuid for o in before.values() if o.device is not None and o.device.index == LOST)
    (host.folder / family / "lost-hidden" / str(LOST)).touch()
    for victim in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if victim.environ().get("CUDA_VISIBLE_DEVICES") == uuid:
                victim.send_signal(signal.SIGKILL)
    code = process.wait()
    after = outcomes(study)
    later = [outcome for file, outcome in after.items() if file not in before]
    return {
        "exit code": code,
        "acknowledged before": len(before),
        "of these lost": sum(after.get(file) != outcome for file, outcome in before.items()),
        "recorded afterwards": len(later),
        "on devices": ", ".join(sorted({str(o.device.index) for o in later if o.device is not None})),
    }


PARTS: dict[str, tuple[float, Callable[[Host], Figures]]] = {
    "rate-demo": (1500.0, lambda host: rate(host, "demo" if host.size == "full" else "tiny")),
    "rate-flux": (3600.0, lambda host: rate(host, "flux")),
    "false-gains": (1800.0, false_gains),
    "parallel-flux": (900.0, lambda host: parallel(host, "flux")),
    "parallel-wan": (1800.0, lambda host: parallel(host, "wan")),
    "lost": (1500.0, lambda host: lost_device(host, "demo" if host.size == "full" else "tiny")),
}
"""By name: the seconds that a part may take, and what it does."""

"""What a study in a Ray cluster costs its parent: its share of the wall time, and proposals a second.

`python tests/bench_ray.py --actors 32 --trial 20 --trials 200` starts Ray on this machine with so many actors, one for
each made-up GPU. Their workers are threads that answer after `--trial` seconds; study, store, strategy and Ray are
real. An actor takes some 100 MB and a second of CPU time to start. The parent's seconds are its CPU time.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults.sabotaged_tune import EMPTY_PANEL
from inline_study import Told
from kinds import kind
from ray_nodes import actors_of

from tuner.execution.launch import Launcher, Place, Start, StartedProcess
from tuner.execution.ray import cluster
from tuner.execution.ray.actor import DeviceActor, Found, own_version
from tuner.execution.ray.executor import RayExecutor
from tuner.hardware import environment
from tuner.records.codec import Estimate, encode, read
from tuner.records.machine import Memory
from tuner.records.model import Model
from tuner.records.outcome import Build, Limits, Timing
from tuner.records.protocol import BuildDone, Job, Message, PointDone, TurnEnded, TurnWanted
from tuner.records.quality import Quality
from tuner.result.prices import Price
from tuner.search.request import Request
from tuner.space import reader
from tuner.study import finalists
from tuner.study.course import keep_strategy
from tuner.study.loop import Study
from tuner.study.store import Store

SPACE = Path(__file__).parent / "faults" / "space.yaml"
TRIAL_S = "BENCH_RAY_TRIAL_S"


class ThreadProcess(StartedProcess):
    """A worker that is a thread."""

    pid = None

    def __init__(self, start: Start) -> None:
        self.pipe, self.job = os.dup(start.messages), read(start.job, Job)
        self.granted, self.has_ended = threading.Event(), threading.Event()
        threading.Thread(target=self.answer, daemon=True).start()

    def answer(self) -> None:
        time.sleep(float(os.environ[TRIAL_S]))
        self.say(BuildDone(build=Build(changes={}, load_s=1, apply_s=0, first_call_s=1, trace=None, verdict=None)))
        self.say(TurnWanted())
        self.granted.wait()
        self.say(TurnEnded())
        for point in self.job.points:
            self.say(done(self.job, point.index))
        os.close(self.pipe)
        self.has_ended.set()

    def say(self, message: Message) -> None:
        os.write(self.pipe, encode(message) + b"\n")

    def poll(self) -> int | None:
        return 0 if self.has_ended.is_set() else None

    def grant(self) -> None:
        self.granted.set()

    def release(self) -> None:
        self.granted.set()


class ThreadLauncher(Launcher):
    start_limit_s = 600.0

    def start(self, start: Start) -> StartedProcess:
        return ThreadProcess(start)

    def close(self) -> None:
        pass


class BenchActor(DeviceActor):
    """An actor whose GPU and whose workers are made up."""

    def describe(self, kind: str, devices: int) -> bytes:
        import ray

        here = environment.detect("cpu", devices=devices)
        return encode(Found(version=own_version(), environment=here, index=int(ray.get_gpu_ids()[0])))

    def launcher(self, place: Place) -> Launcher:
        return ThreadLauncher()


def done(job: Job, index: int) -> PointDone:
    point, luck = job.points[index], zlib.crc32(encode(dict(sorted(job.build.items())))) % 1000 / 1000
    seconds, mean = 0.01 * point.steps * point.batch * (0.5 + luck), 20 + 0.01 * point.steps - 0.1 * luck
    difference = mean - (job.reference.scores[0] if job.reference else 20 + 0.01 * job.points[0].steps - 0.1 * luck)
    quality = Quality(
        metric="clip_score", scores=(mean,) * len(job.workload.prompts), mean=mean, psnr_db=None, ssim=None,
        difference=Estimate(value=difference, low=difference, high=difference),
    )  # fmt: skip
    latency = Estimate(value=seconds, low=seconds, high=seconds)
    timing = Timing(latency_s=latency, samples=6, images_per_s=point.batch / seconds, stopped="interval within target")
    memory = Memory(peak_bytes=1 << 20, reserved_bytes=None)
    return PointDone(index=index, timing=timing, memory=memory, quality=quality if point.score else None)


class Clock:
    """CPU seconds of this process by what they are spent on, inner calls apart, and how often."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        """Calls that returned something, as a strategy does that has a proposal."""
        self.inner: list[float] = []

    def watch(self, owner: Any, name: str, label: str) -> None:
        call: Callable[..., Any] = getattr(owner, name)

        def watched(*given: Any, **named: Any) -> Any:
            started = time.process_time()
            self.inner.append(0.0)
            try:
                result = call(*given, **named)
                self.answers[label] += result is not None
                return result
            finally:
                spent = time.process_time() - started
                self.seconds[label] += spent - self.inner.pop()
                self.calls[label] += 1
                if self.inner:
                    self.inner[-1] += spent

        setattr(owner, name, watched)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, default=32)
    parser.add_argument("--trial", type=float, default=20.0, help="seconds of a worker (20)")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--strategy", default="agent")
    given = parser.parse_args(arguments)
    os.environ[TRIAL_S] = str(given.trial)
    cluster.START_S = 600.0  # type: ignore[attr-defined]  # what it imported, in its own place
    finalists.EXAMINER = (sys.executable, "-S", "-c", EMPTY_PANEL)
    with actors_of(BenchActor):
        return bench(given)


def bench(given: argparse.Namespace) -> int:
    """Start Ray with made-up GPUs, and measure."""
    import ray

    count = {"num_cpus": given.actors, "num_gpus": given.actors}
    ray.init(address="local", include_dashboard=False, log_to_driver=False, **count)
    sites, left_out = cluster.start_actors(ray, cluster.Wanted())
    print(f"{len(sites)} actors; left out: {left_out[:3]}", flush=True)
    found = cluster.Cluster(ray, cluster.ranked(sites), [])
    with tempfile.TemporaryDirectory() as folder:
        measure(found, Path(folder) / "study", given)
    return 0


def measure(found: cluster.Cluster, folder: Path, given: argparse.Namespace) -> None:
    """Run a study, and print what it cost its parent."""
    request = Request(
        model=Model(source="demo", revision=None, pipeline_class="FluxPipeline", scorer="demo"),
        environment=found.environment, space=reader.load(SPACE, kind(), found.environment, ()),
        price=Price(usd_per_hour=3.6, source="here"),
    )  # fmt: skip
    clock, told = Clock(), Told()
    for name in ("submit", "cancel", "free", "trouble_of", "_collect", "_ask_silent"):
        clock.watch(RayExecutor, name, "Ray")
    with (
        Store(folder, request) as store,
        found.opened(store.paths, request.model, {}, 2) as (executor, check),
    ):
        keep_strategy(store, given.strategy, given.strategy)
        study = Study(store, Limits(budget_s=36000.0, max_trials=given.trials), told, executor, check)
        for strategy in (study.search, study.confirmation, study.baseline):
            clock.watch(strategy, "propose", "strategy")
        clock.watch(study.publisher, "publish", "store and result")
        started, used = time.monotonic(), time.process_time()
        study.run()
        wall_s, cpu_s = time.monotonic() - started, time.process_time() - used
    jobs = len(list(folder.glob("*/*/job.json")))
    print(f"{len(found.sites)} actors, {jobs} jobs of {given.trial:.0f} s, {given.strategy}: {wall_s:.0f} s")
    print(
        f"parent: {cpu_s:.1f} s of CPU time, {cpu_s / wall_s:.1%} of the wall time, {1000 * cpu_s / jobs:.0f} ms a job"
    )
    for label, seconds in clock.seconds.most_common():
        print(f"  {label}: {seconds:.1f} s, {1000 * seconds / jobs:.1f} ms a job, {clock.calls[label]} calls")
    print(f"  {clock.answers['strategy'] / clock.seconds['strategy']:.1f} proposals a second of the strategy's time")


if __name__ == "__main__":
    sys.exit(main())

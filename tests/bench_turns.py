"""Whether a timing is the same beside a neighbour that compiles: A/A, each process alone and beside one.

`python tests/bench_turns.py --model FOLDER --processes 20` times one configuration in fresh processes, in the order
alone, beside, beside, alone. The neighbour compiles the denoiser's blocks into an empty cache, again and again, and
stands still only in the turns of the timed process. It prints each process, and then the ratio of the medians with its
interval, and the share of single comparisons that call a difference. `--device cuda` runs it on a GPU.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import bench_aa
import msgspec

from tuner.execution.executor import Ended, Handle, StoodStill
from tuner.execution.launch import FreshLauncher
from tuner.execution.local import LocalExecutor
from tuner.records.outcome import Device, Timing
from tuner.records.protocol import Job, PointDone, PointFailed, WorkerFailed
from tuner.timing.intervals import coefficient_of_variation, differs, paired_ratio


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a pipeline, as for tune run")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--processes", type=int, default=20, help="of each kind (20)")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--allowance", type=float, default=5.0, help="seconds that one may be timed (5)")
    given = parser.parse_args(arguments)
    more = argparse.Namespace(compute_bound=False, pixels=None, space=None, set=[], batch=1)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as scratch:
        job = bench_aa.make_job(argparse.Namespace(**vars(more), **vars(given)), Path(scratch))
        job = msgspec.structs.replace(job, points=job.points[:1])
        while len(seconds[True]) < given.processes or len(seconds[False]) < given.processes:
            index = len(seconds[True]) + len(seconds[False])
            is_beside = index % 4 in (1, 2)
            timing, still_s = timed(job, Path(scratch) / str(index), is_beside=is_beside)
            seconds[is_beside].append(timing.latency_s.value)
            beside = f"beside a compiler, which stood still for {still_s:.1f} s" if is_beside else "alone"
            print(f"process {index} {beside}: {bench_aa.said(timing)}", flush=True)
    print("\n".join(summary(seconds[False], seconds[True])))
    return 0


def timed(job: Job, folder: Path, *, is_beside: bool) -> tuple[Timing, float]:
    """The timing of one fresh process, and how long its neighbour stood still."""
    launcher = FreshLauncher(folder / "cache")
    with LocalExecutor([Device(name=job.environment.device)], launcher, folder / "timed", slots=2) as executor:
        device = executor.devices[0]
        neighbours = [start_compiling(executor, launcher, job, folder, 0)] if is_beside else []
        launcher.cache, executor.folder = folder / "cache", folder / "timed"
        handle = executor.submit(job, device)
        still_s = 0.0
        for of, event in executor.wait(lambda: math.inf):
            if of != handle and isinstance(event, StoodStill):
                still_s += event.seconds
            elif of != handle and isinstance(event, Ended):
                neighbours.append(start_compiling(executor, launcher, job, folder, len(neighbours)))
            elif isinstance(event, PointDone) and of == handle:
                return event.timing, still_s
            elif isinstance(event, (PointFailed, WorkerFailed)) and of == handle:
                break
    raise SystemExit(f"no result: {(folder / 'timed' / 'worker.log').read_text()[-2000:]}")


def start_compiling(executor: LocalExecutor, launcher: FreshLauncher, job: Job, folder: Path, number: int) -> Handle:
    """Start a neighbour that compiles into a cache of its own."""
    launcher.cache = executor.folder = folder / f"neighbour-{number}"
    compiling = msgspec.structs.replace(job, build={**job.build, "compile.scope": "regional"})
    return executor.submit(compiling, executor.devices[0])


def summary(alone: Sequence[float], beside: Sequence[float]) -> list[str]:
    ratio = paired_ratio(alone, beside)
    called = "called a difference" if differs(ratio) else "no difference called"
    singles = [alone[index] / beside[index] for index in range(len(alone))]
    return [
        f"alone: coefficient of variation {coefficient_of_variation(alone):.2%}; beside a compiler: "
        f"{coefficient_of_variation(beside):.2%}",
        f"alone over beside: {ratio.value:.4f} [{ratio.low:.4f}, {ratio.high:.4f}], {called}",
        f"single pairs differ by {min(singles) - 1:+.2%} to {max(singles) - 1:+.2%}",
    ]


if __name__ == "__main__":
    raise SystemExit(main())

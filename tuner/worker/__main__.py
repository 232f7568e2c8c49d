"""The child's half of a trial: load -> apply -> warm up -> trace -> gate -> time -> score; on a GPU the time comes
before the trace, whose profiler slows all later launches.

Run as `python -m tuner.worker JOB FD`: JOB is a file with a Job, FD an inherited pipe that takes one JSON message a
line. Standard input is a lifeline: when it closes the parent is gone, and the whole process group ends. A byte on it
grants a turn or what else the worker waits for (tuner/worker/channel.py).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from pathlib import Path

import psutil

from tuner.knobs import NoEffect
from tuner.knobs.cache import CacheKind
from tuner.quality.guards import InvalidImage
from tuner.records.codec import read
from tuner.records.protocol import BuildDone, Job, NoiseFound, PointFailed, PointLeftOut, WorkerFailed, continues
from tuner.timing.measure import Throttled
from tuner.worker.bench import Bench
from tuner.worker.channel import Channel
from tuner.worker.failures import CompiledWhileTimed
from tuner.worker.ranks import Ranks
from tuner.worker.weights import Weights, no_weights

OF_A_POINT = (InvalidImage, NoEffect, CompiledWhileTimed, Throttled)
"""Failures of one step count, which say nothing of the others."""


def main(arguments: list[str], weights: Weights | None = None) -> int:
    """Run the job of the file that the first argument names, and report to the pipe that the second one names.

    `weights` are those of the template that this process was forked from.
    """
    channel = Channel(int(arguments[1]))
    channel.granted, channel.job_file = threading.Semaphore(0), Path(arguments[0])
    threading.Thread(target=end_with_parent, args=(channel.granted,), daemon=True).start()
    ranks = Ranks(channel)
    try:
        job = read(Path(arguments[0]), Job)
        weights = weights or no_weights(job)
        ranks.start(job, weights)
        run(job, channel, weights, ranks)
    except BaseException as error:
        channel.send(WorkerFailed(failure=ranks.cause_of(channel.failure(error))))
        return 1
    return 0


def end_with_parent(granted: threading.Semaphore) -> None:
    """Count the turns that are granted until the lifeline closes, then end this process and all that it started."""
    while os.read(0, 1):
        granted.release()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os.killpg(os.getpgrp(), signal.SIGKILL)


def run(job: Job, channel: Channel, weights: Weights, ranks: Ranks) -> None:
    """Build the pipeline, and if the gate lets it pass, measure the points one after the other."""
    bench = Bench(job, channel, weights, ranks)
    build = bench.build(Path(job.points[0].folder))
    channel.send(BuildDone(build=build))
    if not continues(job, build):
        return
    idle_steps = 0
    for index in range(len(job.points)):
        point = bench.job.points[index]  # which may have been written again
        if point.steps <= idle_steps or bench.leaves_out(point):
            channel.send(PointLeftOut(index=point.index))
            continue
        try:
            channel.send(bench.measure(point))
        except Exception as error:
            failed_in_timing = index > 0 and point.index in bench.timer.errors  # the build itself works
            if not isinstance(error, OF_A_POINT) and not failed_in_timing:
                raise
            if isinstance(error, NoEffect) and error.knob == CacheKind.name:
                idle_steps = max(idle_steps, point.steps)  # with fewer steps it skips no more
            channel.send(PointFailed(index=point.index, failure=channel.failure(error)))
    if job.is_baseline and bench.scoring is not None:
        channel.enter("vary")
        channel.send(NoiseFound(noise=bench.scoring.compiled_noise(job.points[0])))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    # os._exit skips destructors of extension modules, which can hang or crash after a CUDA error.
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

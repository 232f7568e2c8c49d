"""How far fresh processes of one configuration agree, and whether a slowdown that is planted is found.

`python tests/bench_aa.py` times a configuration in 20 fresh processes, each time as it is and with every call slowed,
two processes in this order and two in the other. It prints each process as it ends, and then the judgement: the
coefficient of variation between the processes, how many A/A comparisons call a gain where there is none, and how many
call that of the untouched calls over the slowed ones. A comparison is the tuner's at the end of a study that has the
time for it: two turns, six where these leave it in doubt, and the noise of four further processes. It takes 16 of the
processes, so that the comparisons are far from independent; they are also made in random orders of the processes,
which shows the rule's own rate where the time of day plays no part.

`--compute-bound` takes a pipeline that is bound by a large GPU's arithmetic (tests/compute_bound.py). With `--json`
results are kept in a file, and the same command goes on from there: `--processes 10`, then `--processes 20`.
`--slowdown 0` plants none.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from unittest.mock import patch

import msgspec
from compute_bound import WORKLOAD, write
from one_job import run_job

from tuner.execution import launch
from tuner.hardware import environment
from tuner.model import pipeline
from tuner.records.codec import Estimate
from tuner.records.outcome import Timing
from tuner.records.protocol import Job, Point, PointDone, PointFailed, WorkerFailed
from tuner.search.baseline import MAX_BASELINES
from tuner.search.gain import MAX_PAIRS, MIN_PAIRS
from tuner.space import reader
from tuner.space.candidates import build_values
from tuner.timing.intervals import coefficient_of_variation, differs, paired_ratio
from tuner.timing.measure import Clock
from tuner.worker import __main__
from tuner.worker.calls import PipelineCalls
from tuner.worker.timing import Timer

MAX_VARIATION = 0.005
MAX_ALARMS = 0.05
MIN_FOUND = 0.95
"""What is asked for: 0.5 %, one of 20, and 19 of 20."""

LOOKS = (MIN_PAIRS, MAX_PAIRS)
"""Turns after which a study looks whether a gain is sure."""

ORDERS = 1000
"""Random orders of the processes in which they are compared, too."""

MIN_PROCESSES = 2 * MAX_PAIRS + MAX_BASELINES
"""In one comparison."""

SLOWED = 1
"""The index of the point whose calls are slowed."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a pipeline, as for tune run")
    parser.add_argument("--compute-bound", action="store_true", help="in its place one that keeps a large GPU busy")
    parser.add_argument("--pixels", type=int, help="the side of its images (1024)")
    parser.add_argument("--space", help="its search space, as for tune run")
    parser.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="other than the baseline's")
    parser.add_argument("--processes", type=int, default=20, help="how many fresh ones (20)")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--slowdown", type=float, default=0.02, help="share that a slowed call takes longer")
    parser.add_argument("--allowance", type=float, default=5.0, help="seconds that either may be timed (5)")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--json", type=Path, help="where results are kept, and taken from if they are there")
    given = parser.parse_args(arguments)
    if given.pixels and not given.compute_bound:
        parser.error("--pixels is of --compute-bound")
    medians: dict[str, list[float]] = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    plain, slowed = medians.setdefault("plain_s", []), medians.setdefault("slowed_s", [])
    with tempfile.TemporaryDirectory() as scratch:
        job = make_job(given, Path(scratch))
        while len(plain) < given.processes:
            started = time.monotonic()
            own, longer = measured(job, given.slowdown, Path(scratch), len(plain))
            plain.append(own.latency_s.value)
            slowed.append(longer.latency_s.value)
            took_s = time.monotonic() - started
            print(f"process {len(plain)}, {took_s:.0f} s: {said(own)}", flush=True)
            print(f"    slowed by {given.slowdown:.1%}: {said(longer)}", flush=True)
            if given.json:
                given.json.write_text(json.dumps(medians) + "\n")
    print("\n".join(summary(plain, slowed)))
    return 0


def make_job(given: argparse.Namespace, scratch: Path) -> Job:
    import yaml

    here = environment.detect(given.device)
    source = str(write(scratch / "model", here.device)) if given.compute_bound else given.model
    model, kind = pipeline.resolve(source, None, None)
    size = (f"workload.height={given.pixels}", f"workload.width={given.pixels}") if given.pixels else ()
    settings = (*WORKLOAD, *size) if given.compute_bound else ()
    space = reader.load(reader.find(given.space, kind, model.source == pipeline.DEMO), kind, here, settings)
    different = {name: yaml.safe_load(value) for name, _, value in (item.partition("=") for item in given.set)}
    return Job(
        model=model,
        environment=here,
        workload=space.workload,
        build=build_values(space.candidate(different)),
        points=tuple(
            Point(index=index, folder="", steps=given.steps, batch=given.batch, score=False) for index in (0, SLOWED)
        ),
        allowance_s=given.allowance,
        trace=False,
    )


def measured(job: Job, slowdown: float, folder: Path, number: int) -> tuple[Timing, Timing]:
    """The timings of one fresh process: as it is, and with calls that take longer by a share."""
    here = folder / f"{number}"
    launch.WORKER = (sys.executable, __file__, "--as-worker", str(slowdown))
    # Comparisons take every second process: in each of the two sides both orders must come.
    turn = msgspec.structs.replace(job, points=job.points[:: -1 if number // 2 % 2 else 1])
    received = run_job(turn, folder / "cache", here)
    timings = {message.index: message.timing for message in received if isinstance(message, PointDone)}
    if len(timings) < len(job.points):
        failed = next(
            (message for message in received if isinstance(message, (PointFailed, WorkerFailed))), received[-1]
        )
        raise SystemExit(f"no result: {failed}\n{(here / 'worker.log').read_text()[-2000:]}")
    return timings[0], timings[SLOWED]


def said(timing: Timing) -> str:
    low, high = timing.latency_s.low * 1e3, timing.latency_s.high * 1e3
    text = f"{timing.latency_s.value * 1e3:.2f} ms [{low:.2f}, {high:.2f}], {timing.samples} samples, {timing.stopped}"
    gpu = timing.gpu
    if gpu is None:
        return text
    clock, power, heat = (rounded(v) for v in (gpu.sm_clock_mhz, gpu.power_w, gpu.temperature_c))
    events = "".join(f", {event} x{count}" for event, count in gpu.events.items())
    return f"{text}, {clock} MHz, {power} W, {heat} C{events}, {sum(gpu.discarded.values())} discarded"


def rounded(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f}"


def summary(plain: Sequence[float], slowed: Sequence[float]) -> list[str]:
    """What the medians of the processes show, and whether that is what was asked for."""
    lines = [spread(plain, "as it is"), spread(slowed, "slowed")]
    ratio = paired_ratio(slowed, plain)
    called = "called a difference" if differs(ratio) else "no difference called"
    lines.append(
        f"slowed over as it is, all processes: {ratio.value:.4f} [{ratio.low:.4f}, {ratio.high:.4f}], {called}"
    )
    if len(plain) < MIN_PROCESSES:
        return [*lines, f"comparisons as at the end of a study take {MIN_PROCESSES} processes"]
    alarms, found = gains_in_any_order(plain, slowed)
    return [
        *lines,
        f"in {ORDERS} random orders of these processes {alarms:.1%} of A/A comparisons call a gain, {found:.1%} of the "
        "slowed",
        f"after {MIN_PAIRS} turns, any difference counted: {differences(plain, plain)} of {len(plain)} A/A "
        f"comparisons, {differences(plain, slowed)} of the slowed",
        f"A/A: {counted(plain, plain)} comparisons call a gain, at most {MAX_ALARMS:.0%} asked for: "
        f"{verdict(gains(plain, plain) <= MAX_ALARMS * len(plain))}",
        f"slowed: {counted(plain, slowed)} comparisons call the gain of the untouched calls, at least "
        f"{MIN_FOUND:.0%} asked for: {verdict(gains(plain, slowed) >= MIN_FOUND * len(plain))}",
    ]


def counted(candidate: Sequence[float], baseline: Sequence[float]) -> str:
    first, count = gains(candidate, baseline, (MIN_PAIRS,)), len(baseline)
    return f"{gains(candidate, baseline)} of {count} ({first} after {MIN_PAIRS} turns)"


def spread(medians: Sequence[float], what: str) -> str:
    variation, widest = coefficient_of_variation(medians), max(medians) / min(medians) - 1
    return (
        f"{len(medians)} processes {what}: coefficient of variation {variation:.2%}, largest over smallest "
        f"{widest:.2%}, at most {MAX_VARIATION:.1%} asked for: {verdict(variation <= MAX_VARIATION)}"
    )


def verdict(is_met: bool) -> str:
    return "MET" if is_met else "NOT MET"


def gains(candidate: Sequence[float], baseline: Sequence[float], looks: Sequence[int] = LOOKS) -> int:
    """How many comparisons, one from each process on, call the candidate faster."""
    return sum(is_gain(candidate, baseline, start, looks) for start in range(len(baseline)))


def gains_in_any_order(plain: Sequence[float], slowed: Sequence[float]) -> tuple[float, float]:
    """The shares of the comparisons, over random orders of the processes, that call a gain: of A/A, and of slowed."""
    random = Random(0)
    alarms, found = 0, 0
    for _ in range(ORDERS):
        order = random.sample(range(len(plain)), len(plain))
        own, longer = [plain[index] for index in order], [slowed[index] for index in order]
        alarms += gains(own, own)
        found += gains(own, longer)
    return alarms / ORDERS / len(plain), found / ORDERS / len(plain)


def differences(candidate: Sequence[float], baseline: Sequence[float]) -> int:
    """How many comparisons of two turns, one from each process on, call a difference, whatever its sign."""
    return sum(differs(speed_up(candidate, baseline, start, MIN_PAIRS)) for start in range(len(baseline)))


def is_gain(candidate: Sequence[float], baseline: Sequence[float], start: int, looks: Sequence[int] = LOOKS) -> bool:
    """Whether so many turns show it, or so many more where these leave it in doubt. No process is in it twice."""
    return any(speed_up(candidate, baseline, start, turns).low > 1.0 for turns in looks)


def speed_up(candidate: Sequence[float], baseline: Sequence[float], start: int, turns: int) -> Estimate:
    """Of processes in turns, with the noise of further ones of the baseline."""
    noise = around(baseline, start + 2 * MAX_PAIRS, MAX_BASELINES)
    return paired_ratio(around(baseline, start, turns, 2), around(candidate, start + 1, turns, 2), [noise])


def around(medians: Sequence[float], start: int, count: int, stride: int = 1) -> list[float]:
    """Some of the processes, beginning again where they end."""
    return [medians[(start + stride * index) % len(medians)] for index in range(count)]


def work(slowdown: float, arguments: list[str]) -> int:
    """Be the worker, time both points, and make each call of one last longer by a share of what it took."""
    user_call = PipelineCalls.user_call

    def own_or_slower(calls: PipelineCalls, point: Point) -> Callable[[], object]:
        call = user_call(calls, point)
        return slower(call, calls.clock, slowdown) if point.index == SLOWED else call

    # Both points have the same steps and batch, and what was timed ahead of one would be the other's.
    never_ahead = patch.object(Timer, "known_timing", return_value=None)
    with patch.object(PipelineCalls, "user_call", own_or_slower), never_ahead:
        return __main__.main(arguments)


def slower(call: Callable[[], object], clock: Clock, slowdown: float) -> Callable[[], object]:
    """A call that lasts longer by a share of what it takes."""

    def slowed() -> object:
        start = time.perf_counter()
        result = call()
        clock.synchronize()
        until = time.perf_counter() + slowdown * (time.perf_counter() - start)
        while time.perf_counter() < until:
            pass
        return result

    return slowed


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-worker"]:
        code = work(float(sys.argv[2]), sys.argv[3:])
        sys.stdout.flush()
        os._exit(code)
    sys.exit(main())

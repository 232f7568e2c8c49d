"""How far fresh processes of one configuration agree, and whether a slowdown that is planted is found.

`python tests/bench_aa.py` runs a configuration and the same with every call slowed, in turns, each time in a fresh
process, 20 of either. It prints each process as it ends, and then the judgement of issue 4: the coefficient of
variation between the processes, in how many of the A/A comparisons a difference is called, and in how many the
slowdown is. A comparison is the tuner's own at the end of a study: two turns, and the noise of four further processes
of the baseline. Each process is in several comparisons, so these are not independent.

`--compute-bound` takes a pipeline that is bound by a large GPU's arithmetic (tests/compute_bound.py). With `--json`
results are kept in a file, and the same command goes on from there: `--pairs 10`, then `--pairs 20`. `--slowdown 0`
plants none.
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

from compute_bound import WORKLOAD, write

from tuner import environment, pipeline, runner, space_file, worker
from tuner.intervals import coefficient_of_variation, differs, ratio_in_turns
from tuner.ledger import CONFIRMATIONS
from tuner.record import Estimate, Job, Message, Point, PointDone, Timing
from tuner.space import build_values
from tuner.study import MOST_BASELINES

MOST_VARIATION = 0.005
MOST_ALARMS = 0.05
LEAST_FOUND = 0.95
"""What is asked for: 0.5 %, one of 20, and 19 of 20."""

LEAST_PAIRS = CONFIRMATIONS + MOST_BASELINES


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a pipeline, as for tune run")
    parser.add_argument("--compute-bound", action="store_true", help="in its place one that keeps a large GPU busy")
    parser.add_argument("--space", help="its search space, as for tune run")
    parser.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="other than the baseline's")
    parser.add_argument("--pairs", type=int, default=20, help="how often each of the two runs (20)")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--slowdown", type=float, default=0.02, help="share of a call that the second takes longer")
    parser.add_argument("--allowance", type=float, default=5.0, help="seconds that one process may time (5)")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--json", type=Path, help="where results are kept, and taken from if they are there")
    given = parser.parse_args(arguments)
    medians: dict[str, list[float]] = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    plain, slowed = medians.setdefault("plain_s", []), medians.setdefault("slowed_s", [])
    with tempfile.TemporaryDirectory() as scratch:
        job = make_job(given, Path(scratch))
        while len(slowed) < given.pairs:
            for share, kept in ((0.0, plain), (given.slowdown, slowed)):
                if len(kept) > len(slowed):
                    continue
                started = time.monotonic()
                timing = measured(job, share, Path(scratch), len(kept))
                kept.append(timing.latency_s.value)
                took_s = time.monotonic() - started
                print(f"process {len(kept)}, slowed by {share:.1%}: {said(timing)}, {took_s:.0f} s", flush=True)
                if given.json:
                    given.json.write_text(json.dumps(medians) + "\n")
    print("\n".join(summary(plain, slowed)))
    return 0


def make_job(given: argparse.Namespace, scratch: Path) -> Job:
    import yaml

    here = environment.detect(given.device)
    source = str(write(scratch / "model", here.device)) if given.compute_bound else given.model
    model, kind = pipeline.resolve(source, None, None)
    settings = WORKLOAD if given.compute_bound else ()
    space = space_file.load(space_file.find(given.space, kind, model.source == pipeline.DEMO), kind, here, settings)
    different = {name: yaml.safe_load(value) for name, _, value in (item.partition("=") for item in given.set)}
    return Job(
        model=model,
        environment=here,
        workload=space.workload,
        build=build_values(space.candidate(different)),
        points=(Point(index=0, folder="", steps=given.steps, batch=given.batch, score=False),),
        allowance_s=given.allowance,
        trace=False,
    )


def measured(job: Job, slowdown: float, folder: Path, pair: int) -> Timing:
    """The timing of one fresh process whose calls take longer by a share."""
    heard: list[Message] = []
    here = folder / f"{pair}-{slowdown}"
    runner.WORKER = (sys.executable, __file__, "--as-worker", str(slowdown))  # type: ignore[assignment]
    runner.run(job, here, folder / "cache", lambda: float("inf"), heard.append)
    if not isinstance(heard[-1], PointDone):
        raise SystemExit(f"no result: {heard[-1]}\n{(here / 'worker.log').read_text()[-2000:]}")
    return heard[-1].timing


def said(timing: Timing) -> str:
    low, high = timing.latency_s.low * 1e3, timing.latency_s.high * 1e3
    text = f"{timing.latency_s.value * 1e3:.2f} ms [{low:.2f}, {high:.2f}], {timing.samples} samples, {timing.stopped}"
    discarded = sum(timing.gpu.discarded.values()) if timing.gpu else 0
    return text + (f", {discarded} discarded" if discarded else "")


def summary(plain: Sequence[float], slowed: Sequence[float]) -> list[str]:
    """What the medians of the processes show, and whether that is what was asked for."""
    lines = [spread(plain, "as it is"), spread(slowed, "slowed")]
    ratio = ratio_in_turns(slowed, plain)
    called = "called a difference" if differs(ratio) else "no difference called"
    lines.append(f"slowed over as it is, all pairs: {ratio.value:.4f} [{ratio.low:.4f}, {ratio.high:.4f}], {called}")
    if len(plain) < LEAST_PAIRS + CONFIRMATIONS:
        return [*lines, f"comparisons as at the end of a study take {LEAST_PAIRS + CONFIRMATIONS} pairs"]
    alarms, found = [sum(map(differs, made)) for made in (same(plain), different(plain, slowed))]
    count = len(plain)
    lines.append(
        f"A/A: {alarms} of {count} comparisons called different, at most {MOST_ALARMS:.0%} asked for: "
        f"{verdict(alarms <= MOST_ALARMS * count)}"
    )
    lines.append(
        f"slowdown: called in {found} of {count} comparisons, at least {LEAST_FOUND:.0%} asked for: "
        f"{verdict(found >= LEAST_FOUND * count)}"
    )
    return lines


def spread(medians: Sequence[float], what: str) -> str:
    variation, widest = coefficient_of_variation(medians), max(medians) / min(medians) - 1
    return (
        f"{len(medians)} processes {what}: coefficient of variation {variation:.2%}, largest over smallest "
        f"{widest:.2%}, at most {MOST_VARIATION:.1%} asked for: {verdict(variation <= MOST_VARIATION)}"
    )


def verdict(is_met: bool) -> str:
    return "MET" if is_met else "NOT MET"


def same(plain: Sequence[float]) -> list[Estimate]:
    """A comparison from each process on, of processes in turns, where there is no difference."""
    return [
        ratio_in_turns(
            around(plain, start, CONFIRMATIONS, 2),
            around(plain, start + 1, CONFIRMATIONS, 2),
            around(plain, start + 2 * CONFIRMATIONS, MOST_BASELINES),
        )
        for start in range(len(plain))
    ]


def different(plain: Sequence[float], slowed: Sequence[float]) -> list[Estimate]:
    """A comparison from each pair on, of slowed and plain processes in turns."""
    return [
        ratio_in_turns(
            around(slowed, start, CONFIRMATIONS),
            around(plain, start, CONFIRMATIONS),
            around(plain, start + CONFIRMATIONS, MOST_BASELINES),
        )
        for start in range(len(plain))
    ]


def around(medians: Sequence[float], start: int, count: int, stride: int = 1) -> list[float]:
    """Some of the processes, beginning again where they end."""
    return [medians[(start + stride * index) % len(medians)] for index in range(count)]


def work(slowdown: float, arguments: list[str]) -> int:
    """Be the worker, and make each call last longer by a share of what it took."""
    caller = worker.Bench.caller

    def slower(bench: worker.Bench, point: Point) -> Callable[[], object]:
        call = caller(bench, point)

        def slowed() -> object:
            start = time.perf_counter()
            result = call()
            bench.clock.wait()
            until = time.perf_counter() + slowdown * (time.perf_counter() - start)
            while time.perf_counter() < until:
                pass
            return result

        return slowed

    if slowdown:
        worker.Bench.caller = slower  # type: ignore[assignment, method-assign]
    return worker.main(arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-worker"]:
        code = work(float(sys.argv[2]), sys.argv[3:])
        sys.stdout.flush()
        os._exit(code)
    sys.exit(main())

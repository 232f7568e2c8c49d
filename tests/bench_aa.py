"""How far fresh processes of one configuration agree, and how often a slowdown that is planted is found.

`python tests/bench_aa.py` runs the bundled pipeline's baseline and the same with every call slowed, in turns, each time
in a fresh process. It prints both coefficients of variation, the ratio with its interval, and for every number of pairs
how often a difference is called where one was planted, and where there is none. `--slowdown 0` plants none.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

from tuner import environment, pipeline, runner, space_file, worker
from tuner.intervals import coefficient_of_variation, differs, ratio_in_turns
from tuner.record import Job, Message, Point, PointDone, Timing
from tuner.space import build_values

ROOT = Path(__file__).resolve().parent.parent
SHOWN = 1000
"""Of the ways to pick some pairs of all, so many are looked at."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a pipeline, as for tune run")
    parser.add_argument("--space", type=Path, default=ROOT / "search_spaces" / "demo.yaml", help="its workload")
    parser.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="other than the baseline's")
    parser.add_argument("--pairs", type=int, default=5, help="how often each of the two runs (5)")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--slowdown", type=float, default=0.02, help="share of a call that the second takes longer")
    parser.add_argument("--allowance", type=float, default=5.0, help="seconds that one process may time (5)")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    given = parser.parse_args(arguments)
    job = make_job(given)
    plain: list[float] = []
    slowed: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        for pair in range(given.pairs):
            for share, medians in ((0.0, plain), (given.slowdown, slowed)):
                timing = measured(job, share, Path(scratch), pair)
                medians.append(timing.latency_s.value)
                print(f"pair {pair}, slowed by {share:.1%}: {said(timing)}", flush=True)
    print("\n".join(summary(plain, slowed)))
    return 0


def make_job(given: argparse.Namespace) -> Job:
    import yaml

    here = environment.detect(given.device)
    model, kind = pipeline.resolve(given.model, None, None)
    space = space_file.load(given.space, kind, here)
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
    runner.run(job, here, folder / "cache", float("inf"), heard.append)
    if not isinstance(heard[-1], PointDone):
        raise SystemExit(f"no result: {heard[-1]}\n{(here / 'worker.log').read_text()[-2000:]}")
    return heard[-1].timing


def said(timing: Timing) -> str:
    low, high = timing.latency_s.low * 1e3, timing.latency_s.high * 1e3
    return f"{timing.latency_s.value * 1e3:.2f} ms [{low:.2f}, {high:.2f}], {timing.samples} samples, {timing.stopped}"


def summary(plain: Sequence[float], slowed: Sequence[float]) -> list[str]:
    """What the medians of the processes show, in lines."""
    lines = [
        f"coefficient of variation between processes: {coefficient_of_variation(plain):.2%} as it is, "
        f"{coefficient_of_variation(slowed):.2%} slowed"
    ]
    ratio = ratio_in_turns(slowed, plain)
    called = "called a difference" if differs(ratio) else "no difference called"
    lines.append(f"slowed over as it is: {ratio.value:.4f} [{ratio.low:.4f}, {ratio.high:.4f}], {called}")
    for size in range(2, len(plain) + 1):
        found = rate(slowed, plain, size)
        lines.append(f"with {size} pairs: called in {found:.0%}; {alarms(plain, size)}")
    return lines


def rate(ours: Sequence[float], theirs: Sequence[float], size: int) -> float:
    """In what share of all choices of so many pairs a difference is called."""
    choices = [chosen for chosen, _ in zip(combinations(range(len(ours)), size), range(SHOWN), strict=False)]
    calls = [differs(ratio_in_turns([ours[i] for i in chosen], [theirs[i] for i in chosen])) for chosen in choices]
    return sum(calls) / len(calls)


def alarms(plain: Sequence[float], size: int) -> str:
    """The same for each process as it is beside the next one as it is, where there is no difference."""
    pairs = len(plain) // 2
    if pairs < size:
        return f"without any slowdown not tried, that takes {2 * size} processes"
    return f"without any slowdown in {rate(plain[: 2 * pairs : 2], plain[1 : 2 * pairs : 2], size):.0%}"


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

    worker.Bench.caller = slower  # type: ignore[assignment, method-assign]
    return worker.main(arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-worker"]:
        code = work(float(sys.argv[2]), sys.argv[3:])
        sys.stdout.flush()
        os._exit(code)
    sys.exit(main())

"""What every value of every knob does to the time of a denoising step, at the real size of a model, one at a time.

`python tests/bench_knobs.py --family flux --out DIR` builds FLUX.1-dev (or sdxl) with random weights, and beside the
untouched pipeline every value that the catalogue calls available here, each in a process of its own with a time limit.
It writes knobs-FAMILY.jsonl as results come in, knobs-FAMILY.md at the end, and the logs of what failed. With `--tiny`
the family's tiny pipeline is taken instead, also on a CPU.

How it is so fast: the weights are made once, on the GPU, by a process that lends them to all others; the libraries are
imported once, by the process that forks the others; and several build at once. Nothing else runs while one is timed:
the others are stopped (SIGSTOP) for those seconds, which count neither as their build time nor against their limit, and
timing begins when a product of matrices takes as long as it took on the idle GPU: a stopped process may have queued
minutes of work.

The parts are in knobs_bench/.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pipelines
from knobs_bench.plan import plan
from knobs_bench.room import Room
from knobs_bench.rows import Result, said
from knobs_bench.starting import be_child, imported, lend
from knobs_bench.table import console, in_markdown, markdown, table

from tuner.hardware import environment
from tuner.knobs import KNOBS
from tuner.model import architecture


def arguments_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="flux", choices=tuple(pipelines.BUILDERS))
    parser.add_argument("--tiny", action="store_true", help="the family's tiny pipeline")
    parser.add_argument("--only", nargs="+", default=(), metavar="KNOB[=VALUE]", help="only these, and their bases")
    parser.add_argument("--budget", type=float, default=420.0, help="seconds after which nothing is started (420)")
    parser.add_argument("--parallel", type=int, default=8, help="how many build at once (8)")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument(
        "--table", nargs="+", type=Path, metavar="JSONL", help="only the table of earlier runs' results"
    )
    parser.add_argument("--plan", action="store_true", help="only say what would run")
    parser.add_argument("--out", type=Path, default=Path("knobs"))
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--pipes", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    unknown = {name.partition("=")[0] for name in given.only} - KNOBS.keys()
    if unknown:
        parser.error(f"no such knob: {', '.join(sorted(unknown))}")
    if given.device == "cpu" and not given.tiny and not (given.plan or given.table):
        parser.error("on a CPU give --tiny")
    given.weights, given.product_s, given.fork = None, None, True
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    given = arguments_of(arguments)
    if given.role:
        be_child(given)
        return 0
    if given.table:
        lines = [line for file in given.table for line in file.read_bytes().splitlines()]
        latest = {result.trial.name: result for result in (msgspec.json.decode(line, type=Result) for line in lines)}
        print("\n".join(in_markdown(table(list(latest.values())))))
        return 0
    begun = time.monotonic()
    here = environment.detect(given.device)
    pipe = imported(given)
    trials, refused = plan(architecture.from_pipeline(pipe), here, given.only)
    how = "forked" if given.fork else "started afresh"
    print(f"{len(trials)} trials, each process {how}; {len(refused)} values cannot be had here; "
          f"libraries imported in {time.monotonic() - begun:.0f} s", flush=True)  # fmt: skip
    if given.plan:
        for row in trials:
            print(f"{row.rank} {row.name:60} {row.what:15} {'' if row.base is None else said(row.base)}")
        for name, reason in refused.items():
            print(f"- {name}: {reason}")
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-knobs-"))
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
    holder = None
    try:
        if here.device == "cuda" and not given.tiny:
            holder = lend(given, pipe, folder)
            print(f"weights on the GPU after {time.monotonic() - begun:.0f} s", flush=True)
        given.budget -= time.monotonic() - begun
        room = Room(given, here, pipe, folder)
        left = room.run(list(trials))
    finally:
        if holder is not None:
            holder.end()
        shutil.rmtree(folder, ignore_errors=True)
    (given.out / f"knobs-{given.family}.md").write_text(markdown(given, here, room.results, refused, left))
    print(console(table(room.results)))
    print(f"{len(room.results)} run, {len(left)} left, {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)

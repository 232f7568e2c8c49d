"""Replay searches against tables of measured effects: GPU minutes to a share of what all candidates would give.

`python tests/bench_search.py` replays each search on FLUX.1-dev's table with 20 seeds and prints the median minutes to
90, 95 and 99 % of the hypervolume of the exhaustive front. `--shuffled` changes the places of all effects, so that
advice is wrong everywhere. `--devices 1 2 4 8` replays a host of several GPUs: minutes are then those of all GPUs
together, each of which times the untouched pipeline first. The parts are in search_bench/.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from statistics import mean, median

import optuna
from search_bench.contenders import CONTENDERS
from search_bench.replay import SHARES, Course, Replay, exhaustive_area
from search_bench.table import Table, flux, load

MINUTES = (5, 20, 60)
"""After which the share of the hypervolume is shown."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contenders", nargs="*", default=list(CONTENDERS), help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument(
        "--table", type=Path, help="effects (.yaml) or recorded points (.json.gz) (default: FLUX.1-dev)"
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=180.0, help="of GPU time for each replay")
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument("--advice-error", type=float, default=0.25, help="share by which advice is off (25 %%)")
    parser.add_argument("--slots", type=int, default=4, help="builds that run at once on a device")
    parser.add_argument("--devices", type=int, nargs="+", default=[1], help="how many devices, such as 1 2 4 8")
    parser.add_argument("--jobs", type=int, default=1)
    return parser.parse_args(arguments)


def table_of(given: argparse.Namespace, seed: int) -> Table:
    table = load(given.table) if given.table else flux()
    return table.shuffled(seed) if given.shuffled else table


def replay(task: tuple[argparse.Namespace, str, int, int]) -> Course:
    given, name, devices, seed = task
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = table_of(given, seed)
    told = (load(given.table) if given.table else flux()).expectations(given.advice_error, seed)
    area = AREAS.get((given.shuffled and seed, str(given.table))) or exhaustive_area(table)
    AREAS[given.shuffled and seed, str(given.table)] = area
    contender = CONTENDERS[name]
    run = Replay(table, seed, area, has_sweep=contender.has_sweep, slots=given.slots, devices=devices)
    return run.run(contender.make(run, told), 60 * given.minutes)


AREAS: dict[tuple[object, str], float] = {}


def main(arguments: Sequence[str]) -> int:
    given = parse(arguments)
    columns = [f"{share:.0%}" for share in SHARES] + [f"{minutes} min" for minutes in MINUTES]
    columns += ["builds", "trials", "s a proposal", "ended"]
    print("| search | devices | " + " | ".join(columns) + " |\n|" + " --- |" * (len(columns) + 2), flush=True)
    for name, devices in product(given.contenders, given.devices):
        tasks = [(given, name, devices, seed) for seed in range(given.first_seed, given.first_seed + given.seeds)]
        if given.jobs > 1:
            with ProcessPoolExecutor(given.jobs) as pool:
                courses = list(pool.map(replay, tasks))
        else:
            courses = list(map(replay, tasks))
        print(f"| {name} | {devices} | " + " | ".join(row(courses, given.minutes)) + " |", flush=True)
    return 0


def row(courses: Sequence[Course], minutes: float) -> list[str]:
    times = [median(course.reached_s.get(share, float("inf")) for course in courses) / 60 for share in SHARES]
    shares = [median(course.share_after(60 * m) for course in courses) for m in MINUTES]
    ended = sum(course.ended != "time" for course in courses)
    return [
        *(f"{t:.1f}" if t < minutes else f"> {minutes:.0f}" for t in times),
        *(f"{share:.1%}" for share in shares),
        f"{median(course.builds for course in courses):.0f}", f"{median(course.trials for course in courses):.0f}",
        f"{mean(mean(course.proposal_s) for course in courses):.3f}", f"{ended} of {len(courses)}",
    ]  # fmt: skip


if __name__ == "__main__":
    started = time.monotonic()
    code = main(sys.argv[1:])
    print(f"\n{time.monotonic() - started:.0f} s", file=sys.stderr)
    sys.exit(code)

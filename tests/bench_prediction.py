"""How far the predicted latency of a step count is from the measured one, configuration by configuration.

`python tests/bench_prediction.py` builds each configuration in a fresh process, measures the step counts that a study
would, predicts the others from them, and measures those too. It prints a row for each predicted point with its error,
and in the end how many are within 1 %. `--model`, `--space` and `--set` are as for tune run, `--builds` are further
configurations of builds (KNOB=VALUE, several with commas). `--compute-bound` takes a pipeline that is bound by a large
GPU's arithmetic (tests/compute_bound.py), `--json` writes the table to a file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from compute_bound import WORKLOAD, write
from one_job import run_job

from tuner.hardware import environment
from tuner.knobs import uneven_steps
from tuner.model import pipeline
from tuner.records.codec import Values
from tuner.records.outcome import Timing
from tuner.records.protocol import Job, Point, PointDone
from tuner.space import reader
from tuner.space.candidates import SearchSpace, build_values
from tuner.timing import prediction

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 0.01
BUILDS = ("", "compile.scope=regional", "fuse_qkv=true")


class Row(NamedTuple):
    """One predicted point beside its measurement."""

    configuration: str
    steps: int
    measured_at: tuple[int, ...]
    predicted: Timing
    measured: Timing

    @property
    def error(self) -> float:
        return self.predicted.latency_s.value / self.measured.latency_s.value - 1

    @property
    def held(self) -> bool:
        return prediction.agrees(self.predicted.latency_s, self.measured.latency_s)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a pipeline, as for tune run")
    parser.add_argument("--compute-bound", action="store_true", help="in its place one that keeps a large GPU busy")
    parser.add_argument("--space", help="its search space, as for tune run")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="as for tune run")
    parser.add_argument("--builds", nargs="*", default=BUILDS, help=f"settings of each build ({', '.join(BUILDS)})")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[28, 24, 20, 16, 12, 8, 4], help="first and span: measured"
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--allowance", type=float, default=10.0, help="seconds that one point may be timed (10)")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--json", type=Path, help="where to write the table")
    given = parser.parse_args(arguments)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        if given.compute_bound:
            given.model = str(write(Path(scratch) / "model", environment.detect(given.device).device))
            given.set = [*WORKLOAD, *given.set]
        for index, build in enumerate(given.builds):
            for row in measured(given, build, Path(scratch) / str(index)):
                rows.append(row)
                print(line(row), flush=True)
    print(summary(rows))
    if given.json:
        given.json.write_text(json.dumps([as_json(row) for row in rows], indent=1) + "\n")
    return 0 if rows and all(abs(row.error) <= LIMIT for row in rows) else 1


def measured(given: argparse.Namespace, build: str, folder: Path) -> Iterator[Row]:
    """The rows of one build: a fresh process measures every step count, and the prediction is made here."""
    job = make_job(given, build)
    received = run_job(job, folder.parent / "cache", folder)
    found = {job.points[m.index].steps: m.timing for m in received if isinstance(m, PointDone)}
    if len(found) < len(job.points):
        print(f"{build or 'baseline'}: no result: {received[-1]}\n{(folder / 'worker.log').read_text()[-1000:]}")
        return
    steps = [point.steps for point in job.points]
    known = prediction.step_counts_to_measure(steps)
    cost = prediction.fit({count: found[count].latency_s for count in known})
    for count in (count for count in steps if count not in known):
        predicted = prediction.predicted_timing(cost, count, given.batch)
        yield Row(build or "baseline", count, cost.measured_at, predicted, found[count])


def make_job(given: argparse.Namespace, build: str) -> Job:
    here = environment.detect(given.device)
    model, kind = pipeline.resolve(given.model, None, None)
    space = reader.load(reader.find(given.space, kind, model.source == pipeline.DEMO), kind, here, given.set)
    values = space.candidate(settings(space, build) | {"batch": given.batch})
    if uneven_steps(values):
        raise SystemExit(f"{build}: its steps are not alike, a study measures them all")
    reason = space.conflict_reason(values)
    if reason:
        raise SystemExit(f"{build}: {reason}")
    return Job(
        model=model,
        environment=here,
        workload=space.workload,
        build=build_values(values),
        points=tuple(
            Point(index=index, folder="", steps=steps, batch=given.batch, score=False)
            for index, steps in enumerate(given.steps)
        ),
        allowance_s=given.allowance,
        trace=False,
    )


def settings(space: SearchSpace, build: str) -> Values:
    """What the space pins, and over it KNOB=VALUE,KNOB=VALUE."""
    import yaml

    pinned = {name: values[0] for name, values in space.knobs.items() if len(values) == 1}
    pairs = (item.partition("=") for item in build.split(",") if item)
    return pinned | {name: yaml.safe_load(value) for name, _, value in pairs}


def line(row: Row) -> str:
    predicted, real = row.predicted.latency_s, row.measured.latency_s
    span = f"[{predicted.low * 1e3:.2f}, {predicted.high * 1e3:.2f}]"
    return (
        f"{row.configuration:40} {row.steps:3} steps from {','.join(map(str, row.measured_at)):8}: predicted "
        f"{predicted.value * 1e3:9.2f} ms {span:20}, measured {real.value * 1e3:9.2f} ms "
        f"({row.measured.samples} samples), {row.error:+.2%}{'' if row.held else ' (outside its interval)'}"
    )


def summary(rows: Sequence[Row]) -> str:
    if not rows:
        return "nothing was predicted"
    within = sum(abs(row.error) <= LIMIT for row in rows)
    worst = max(rows, key=lambda row: abs(row.error))
    held = sum(row.held for row in rows)
    return (
        f"{within} of {len(rows)} predicted configurations within {LIMIT:.0%}; the worst {worst.error:+.2%} "
        f"({worst.configuration}, {worst.steps} steps); {held} of {len(rows)} inside their intervals"
    )


def as_json(row: Row) -> dict[str, object]:
    return {
        "configuration": row.configuration, "steps": row.steps, "measured_at": row.measured_at,
        "predicted_s": row.predicted.latency_s.value, "measured_s": row.measured.latency_s.value,
        "samples": row.measured.samples, "error": row.error, "held": row.held,
    }  # fmt: skip


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)

"""Do harm to `tune run` by the hundreds and print one table: python tests/torture.py --kills 300 --sizes 20.

Workers are simulated, as in tests/faults; the parent, its store and its processes are real. Each attempt is counted as
kept if its checks hold: nothing acknowledged is lost, no file is torn, no process stays, errors are one line.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import pipelines  # noqa: E402
import test_cli  # noqa: E402
from faults import hunting  # noqa: E402
from faults.forked_tune import Commands, TuneProcess  # noqa: E402
from faults.harness import Tune, assert_one_line, is_whole, wait_until  # noqa: E402
from faults.test_damaged_study import DAMAGES  # noqa: E402

ENVIRONMENTS: dict[str, dict[str, str]] = {
    "no HOME": {"HOME": "/nonexistent"}, "ASCII locale": {"LC_ALL": "C", "PYTHONUTF8": "0"}, "no PATH": {"PATH": ""},
    "dumb terminal": {"TERM": "dumb"}, "one column": {"COLUMNS": "1"}, "offline": {"HF_HUB_OFFLINE": "1"},
    "no GPU": {"CUDA_VISIBLE_DEVICES": ""}, "a GPU that is none": {"CUDA_VISIBLE_DEVICES": "99"},
    "warnings are shown": {"PYTHONWARNINGS": "default"}, "optimized": {"PYTHONOPTIMIZE": "2"},
}  # fmt: skip


MAX_STUDIES = 60
"""Of one row, in case that nothing is found to be killed."""


@dataclass
class Row:
    """One line of the table."""

    what: str
    tried: int = 0
    kept: int = 0
    seconds: float = 0.0
    kills: int = 0
    """Of processes of studies that went on."""

    broken: list[str] = field(default_factory=list)

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Count an attempt, and what it broke."""
        self.tried += 1
        try:
            yield
            self.kept += 1
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            self.broken.append(f"{name}: {(str(error).splitlines() or [repr(error)])[0][:150]}")


def new(scratch: Path, name: str) -> Tune:
    """Make a study with simulated workers in a folder of its own."""
    model, out = scratch / "model", scratch / name
    if not model.exists():
        pipelines.write("flux", model)
    out.mkdir(exist_ok=True)
    return Tune(commands(), out, model)


@cache
def commands() -> Commands:
    """Where all commands are forked from."""
    return Commands()


def kill(row: Row, tune: Tune, kills: int, strike: Callable[[Tune, TuneProcess], None]) -> None:
    """Strike at random instants and look at what is left each time; then the same command comes to its end."""
    chance, kept = random.Random(0), {}
    for number in range(kills):
        with row.attempt(f"kill {number}"):
            process = tune.start("--trials", str(len(kept) + 30))
            wait_until(lambda: (tune.folder / "lock").exists())
            time.sleep(chance.uniform(0.2, 3.0))
            strike(tune, process)
            process.communicate(timeout=120)
            tune.wait_until_gone()
            now = tune.acknowledged()
            lost = [str(file) for file in kept if now.get(file) != kept[file]]
            kept = now
            assert not lost, lost
            assert all(map(is_whole, now)), "torn"
    with row.attempt("the end"):
        done = tune.run("--trials", str(len(tune.outcomes()) + 1))
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        tune.check()


def kill_parent(_: Tune, process: TuneProcess) -> None:
    """Kill the parent."""
    process.kill()


def kills_of_parent(row: Row, scratch: Path, options: argparse.Namespace) -> None:
    kill(row, new(scratch, "parent"), options.kills, kill_parent)


def kills_of_worker(row: Row, scratch: Path, options: argparse.Namespace) -> None:
    """Kill workers, started afresh in one study and forked in the next: each is a failure by its signal."""
    stages: Counter[str] = Counter()
    for tune, struck in studies_with_kills(row, scratch, hunting.WORKERS, -(-options.kills // 3)):
        for each in struck:
            with row.attempt(f"worker of {each.job}"):
                assert not hunting.lost(tune, each), hunting.lost(tune, each)
                failed = hunting.record(tune, each)
                stages[failed.failure.stage if failed and failed.failure else "done"] += 1
                assert failed or (each.job.parent / "outcome.json").exists(), "not recorded"
    row.what += f" ({', '.join(f'{stage} {count}' for stage, count in stages.most_common())})"


def kills_of_template(row: Row, scratch: Path, options: argparse.Namespace) -> None:
    """Kill templates as they import, read, fork and wait: nothing of the study is lost, whoever ran goes on."""
    for tune, struck in studies_with_kills(row, scratch, hunting.TEMPLATES, -(-options.kills // 6)):
        for each in struck:
            with row.attempt(f"template at {each.job}"):
                assert not hunting.lost(tune, each), hunting.lost(tune, each)
        with row.attempt("failures"):
            failed = [outcome.failure.message for outcome in tune.outcomes().values() if outcome.failure]
            assert all("after the process that had forked it" in message for message in failed), failed


def studies_with_kills(
    row: Row, scratch: Path, prey: hunting.Prey, kills: int
) -> Iterator[tuple[Tune, list[hunting.Kill]]]:
    """Run studies with up to ten kills each, which go on to their end, and yield each with what was killed."""
    chance, number = random.Random(1), 0
    while kills > 0 and number < MAX_STUDIES:
        tune, reads = new(scratch, f"{prey.find.__name__}-{number}"), prey is hunting.TEMPLATES or number % 2
        environment = {"TUNER_STAGE_S": prey.stage_s} | ({"TUNER_TEMPLATE": "1"} if reads else {})
        process = tune.start("--trials", str(prey.trials), **environment)
        try:
            struck = hunting.hunt(tune, process, prey, min(10, kills), chance)
            _, errors = process.communicate(timeout=240)
        finally:
            process.kill()
        with row.attempt(f"the end of study {number}"):
            assert (process.returncode, errors) == (0, ""), errors
            assert all(map(is_whole, tune.acknowledged())), "torn"
            tune.check()
        row.kills += len(struck)
        yield tune, struck
        kills, number = kills - len(struck), number + 1
    with row.attempt("as many kills as asked for"):
        assert kills <= 0, f"{kills} are missing after {number} studies"


def full_disks(row: Row, scratch: Path, options: argparse.Namespace) -> None:
    """Run on disks of growing size, then with room: one line, and nothing lost."""
    for size_kb in [int(64 * 1.35**index) for index in range(options.sizes)]:
        disk = scratch / "disk"
        disk.mkdir(exist_ok=True)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", disk], capture_output=True)
        if mounted.returncode:
            row.broken.append("no disk can be mounted here")
            return
        try:
            with row.attempt(f"{size_kb} KB"):
                tune = new(scratch, "disk")
                done = tune.run("--trials", "8")
                if done.returncode:
                    assert_one_line(done, 2, "disk is full")
                kept = tune.acknowledged()
                subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
                done = tune.run("--trials", "8")
                assert (done.returncode, done.stderr) == (0, ""), done.stderr
                assert kept.items() <= tune.acknowledged().items(), "lost"
                tune.check()
        finally:
            subprocess.run(["umount", "-l", disk], check=True)


def damages(row: Row, scratch: Path, options: argparse.Namespace) -> None:
    """Damage a finished study: one line that names the file."""
    sound = new(scratch, "sound")
    assert sound.run("--trials", "10").returncode == 0
    cases = [(name, what, harm) for name, kinds in DAMAGES.items() for what, harm in kinds.items()]
    for name, what, harm in cases[:: options.every]:
        shutil.rmtree(scratch / "damaged", ignore_errors=True)
        shutil.copytree(sound.out, scratch / "damaged")
        tune = new(scratch, "damaged")
        with row.attempt(f"{name}: {what}"):
            harm(tune.folder / name)
            assert_one_line(tune.run("--trials", "12"), 2, str(tune.folder / name))
            assert tune.left() == []


def environments(row: Row, scratch: Path, options: argparse.Namespace) -> None:
    """Run where variables are odd."""
    for index, (name, variables) in enumerate(list(ENVIRONMENTS.items())[:: options.every]):
        with row.attempt(name):
            tune = new(scratch, f"environment-{index}")
            done = tune.run_afresh("--trials", "3", **variables)
            assert done.returncode == 0, done.stderr
            assert "Traceback" not in done.stdout + done.stderr, done.stderr
            tune.check()


def mistakes(row: Row, scratch: Path, options: argparse.Namespace) -> None:
    """Give arguments and files that are wrong: one line that names them, exit code 2."""
    here = test_cli.make_mistakes(scratch)
    for arguments, named in test_cli.WRONG[:: options.every]:
        with row.attempt(" ".join(arguments)[:80]):
            done = test_cli.tune(*arguments, cwd=here)
            assert done.returncode == 2, done.returncode
            assert len(done.stderr.splitlines()) == 1 and named in done.stderr, done.stderr


ROWS: dict[str, Callable[[Row, Path, argparse.Namespace], None]] = {
    "`kill -9` of the parent": kills_of_parent,
    "`kill -9` of workers": kills_of_worker,
    "`kill -9` of templates": kills_of_template,
    "disks of growing size": full_disks,
    "damaged databases, outcomes, requests": damages,
    "odd environments": environments,
    "malformed arguments and files": mistakes,
}


def main() -> int:
    """Print the table in Markdown, and what broke below it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kills",
        type=int,
        default=20,
        help="kills of the parent; a third as many of workers, a sixth of templates (default: 20)",
    )
    parser.add_argument("--sizes", type=int, default=5, help="sizes of disks (default: 5)")
    parser.add_argument("--every", type=int, default=1, help="take every Nth of the other cases (default: 1)")
    parser.add_argument("--only", nargs="*", type=int, help="numbers of the rows to make, from 0 on (default: all)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rows: list[Row] = []
    with contextlib.suppress(KeyboardInterrupt):
        make_rows(rows, options)
    print_table(rows)
    return int(any(row.broken for row in rows))


def make_rows(rows: list[Row], options: argparse.Namespace) -> None:
    for index, (what, make) in enumerate(ROWS.items()):
        if options.only is not None and index not in options.only:
            continue
        row, started = Row(what), time.monotonic()
        rows.append(row)
        with tempfile.TemporaryDirectory(prefix="torture-") as scratch:
            try:
                make(row, Path(scratch), options)
            finally:
                row.seconds = time.monotonic() - started
        print(f"{what}: {row.kept} of {row.tried}, {row.seconds:.0f} s", file=sys.stderr, flush=True)


def print_table(rows: list[Row]) -> None:
    print(f"| harm ({datetime.now(UTC):%Y-%m-%d}) | tried | kept all promises | seconds |\n| --- | --- | --- | --- |")
    for row in rows:
        kills = f": {row.kills}" if row.kills else ""
        print(f"| {row.what}{kills} | {row.tried} | {row.kept} | {row.seconds:.0f} |")
    print(*[f"\n- {row.what}: {broken}" for row in rows for broken in row.broken], sep="")


if __name__ == "__main__":
    raise SystemExit(main())

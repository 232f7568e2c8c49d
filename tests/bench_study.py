"""A study of a family at its real size, as a user would run it: where its time went, and what is asked beside it.

`python tests/bench_study.py --family flux` makes FLUX.1-dev with random weights at the published size, runs `tune run`
on it with the default space, and prints one table. `--folder` takes the pipeline, the study, and their logs. The same
command goes on with the study that is there; with `--stop-after 9m` it ends by itself before a machine does, and the
next call goes on. Ctrl-C and SIGTERM end the study as Ctrl-C ends `tune run`: what it recorded stays. `--family tiny`
and `--family demo` run on a CPU. Words after `--` go to `tune run`.

`--kill 20` kills its parent, a worker, the template and the holder of the weights 20 times each, at random, and says
whether something acknowledged was lost, whether a process or GPU memory was left after ten seconds, and whether the
study goes on. It has a folder of its own, and asks for a long --budget. The parts are in study_bench/.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from study_bench.families import FAMILIES, Family, command, environment, made, make
from study_bench.kills import Killer, kill_all
from study_bench.running import Deadline, Stopped, start, stoppable, wait
from study_bench.table import print_report

from tuner.commands.arguments import seconds

SHOWN_LINES = 12
"""The last lines of the log of a command that failed."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=tuple(FAMILIES), default="tiny")
    parser.add_argument("--size", choices=("full", "tiny"), help="of the pipeline (default: the family's)")
    parser.add_argument("--budget", help="of the study, over all parts (default: the one that figures are asked for)")
    parser.add_argument("--folder", type=Path, help="(default: traces/bench-FAMILY)")
    parser.add_argument("--resume", action="store_true", help="only go on: fail if the folder has no study")
    parser.add_argument("--stop-after", type=seconds, metavar="TIME", help="end this call by itself, such as 9m")
    parser.add_argument("--kill", type=int, metavar="N", help="instead kill -9 each of its processes N times")
    parser.add_argument("--kill-within", type=seconds, default=10.0, metavar="TIME", help="of their start (10s)")
    given = parser.parse_args(arguments[:at])
    given.more = list(arguments[at + 1 :])
    return given


def main(arguments: Sequence[str]) -> int:
    given = parse(arguments)
    deadline, family = Deadline(given.stop_after), FAMILIES[given.family]
    size = given.size or family.size
    name = f"bench-{given.family}" if given.kill is None else f"bench-{given.family}-kill"
    folder = (given.folder or Path("traces") / name).resolve()
    if given.resume and not (folder / "study" / "study.json").exists():
        print(f"{folder}: no study to go on with", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    words = command(family, size, folder, given.budget or family.within, given.more)
    try:
        with stoppable():
            write_pipeline(family, size, folder, deadline)
            if given.kill is not None:
                return int(kill_all(Killer(words, folder, given.kill_within, deadline), given.kill) > 0)
            code = run(words, folder, deadline)
    except Stopped:
        code = 0
        print("stopped: the same command goes on", flush=True)
    return report(folder, given.family, words) or code


def write_pipeline(family: Family, size: str, folder: Path, deadline: Deadline) -> None:
    """Write the pipeline, unless it is there. One that was not written to its end does not count."""
    process = make(family, size, folder, folder / "model.log")
    if process is not None:
        if wait(process, deadline) != 0:
            raise SystemExit(f"the pipeline could not be made: {tail(folder / 'model.log')}")
        made(folder)


def run(words: Sequence[str], folder: Path, deadline: Deadline) -> int:
    """Run `tune run` to its end and return its exit code. Its output goes to tune.log."""
    log = folder / "tune.log"
    print(f"python {shlex.join(words[1:])}\n(output in {log})", flush=True)
    code = wait(start(words, log, environment()), deadline)
    if code != 0:
        print(f"tune run ended with code {code}: {tail(log)}", flush=True)
    return code


def report(folder: Path, name: str, words: Sequence[str]) -> int:
    """Print the table, from what `tune show` says of the study."""
    shown = [*words[:3], "show", str(folder / "study"), "--format", "json"]
    done = subprocess.run(shown, capture_output=True, text=True, env=environment())
    if done.returncode != 0:
        print(f"no result yet: {done.stderr.strip()}\n{tail(folder / 'tune.log')}")
        return 1
    result: dict[str, Any] = json.loads(done.stdout)
    title = f"{name}, asked for --budget {FAMILIES[name].within}"
    print_report(result, FAMILIES[name].asked, title, Console(width=120, highlight=False, markup=False))
    return 0


def tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-SHOWN_LINES:]) if log.exists() else "no log"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Peers beside this project's result: the same pipeline, seeds and calls, each in processes and packages of its own.

`python tests/bench_peers.py --family flux --size full --ours exported.py --out DIR` runs each peer in rounds of fresh
processes, one process at a time, the order turned around from round to round: diffusers' defaults, what its
documentation recommends, diffusers-torchao's recipe, cache-dit with its own API, and the Python file that `tune export`
wrote. A peer that needs packages of its own gets a virtual environment beside the one that runs this; one that
cannot be installed or does not run is listed with the reason. `--model FOLDER` takes a pipeline that is already there,
which the exported file must name too; otherwise random weights are written to DIR/model.

A row has the median of a call and its 95 % interval over the rounds, the ratio to the first peer by image, paired by
round, how far its images are from the first peer's with the same seeds (relative L2), seconds from the process's start
to its first image (cold in the first round, with the compiler's cache after; the model is in the page cache in both),
joules per image, and clock and power during the calls. The exported file is called with its own arguments.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pipelines
from peers_bench.recipes import MARK

from tuner.files import atomic_write
from tuner.numbers import format_number
from tuner.timing.intervals import latency_interval, paired_ratio

RECIPES = Path(__file__).resolve().parent / "peers_bench" / "recipes.py"
PROMPT = "a red cat"
STEPS: Mapping[str, int] = {"flux": 28, "sdxl": 50, "wan": 50}


@dataclass(frozen=True)
class Peer:
    """A row: a recipe of peers_bench/recipes.py, and the packages that it needs in an environment of its own.

    `families` are those that it can do at all.
    """

    name: str
    recipe: str
    packages: tuple[str, ...] = ()
    mask: str = ""
    families: tuple[str, ...] = ()


CACHE_DIT = ("cache-dit==1.5.3",)
PEERS: tuple[Peer, ...] = (
    Peer("diffusers", "defaults"),
    Peer("diffusers' documentation", "documented"),
    Peer("diffusers' documentation, regional", "regional"),
    Peer("diffusers-torchao's recipe", "torchao"),
    Peer("cache-dit, no cache", "cache_dit", CACHE_DIT),
    Peer("cache-dit, slow", "cache_dit", CACHE_DIT, "slow", ("flux", "wan")),
    Peer("cache-dit, medium", "cache_dit", CACHE_DIT, "medium", ("flux", "wan")),
    Peer("cache-dit, fast", "cache_dit", CACHE_DIT, "fast", ("flux", "wan")),
    Peer("ParaAttention", "para_attention", ("ParaAttention==0.3.38", "diffusers==0.34.0"), families=("flux",)),
    Peer("Pruna", "pruna", ("pruna==0.3.4",)),
    Peer("xDiT, one GPU", "xdit", ("xfuser==0.7.0",), families=("flux",)),
    Peer("AITune", "aitune", ("aitune==0.6.0",), families=("flux", "wan")),
    Peer("ours", "ours"),
)


@dataclass
class Row:
    """What was measured of a peer, a record for each round, or why nothing was."""

    peer: Peer
    rounds: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""

    @property
    def file_name(self) -> str:
        return self.peer.name.replace(" ", "-").replace("'", "").replace(",", "")


# ---- environments ---------------------------------------------------------------------------------------------------


def python_of(peer: Peer, folder: Path, limit_s: float) -> tuple[str, str]:
    """Return the interpreter for a peer, and why it cannot be had or an empty text.

    Its own packages shadow those of the environment that runs this, which it sees too.
    """
    if not peer.packages:
        return sys.executable, ""
    own = folder / "-".join(peer.packages).replace("=", "")
    python = own / "bin" / "python"
    if not (own / "installed").exists():
        venv.create(own, with_pip=True, clear=True)
        (site,) = own.glob("lib/python*/site-packages")
        (site / "beside.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")) + "\n")
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.packages]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
        except subprocess.TimeoutExpired:
            return str(python), f"pip did not end within {limit_s:.0f} s"
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            return str(python), f"cannot be installed: {(errors or ['pip failed'])[-1][:200]}"
        (own / "installed").touch()
    return str(python), ""


# ---- running --------------------------------------------------------------------------------------------------------


def run(row: Row, python: str, job: dict[str, Any], out: Path, limit_s: float) -> None:
    """Run a peer's process once and add what it measured; if it fails, say why and run it no more."""
    cache = out / "caches" / row.file_name
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
                   "TRITON_CACHE_DIR": str(cache / "triton"), "HF_HUB_OFFLINE": "1"}  # fmt: skip
    environment.pop("PYTHONPATH", None)
    given = json.dumps(job | {"recipe": row.peer.recipe, "mask": row.peer.mask, "started": time.monotonic(),
                              "images": str(images_of(row, out)),
                              "packages": [each.partition("==")[0] for each in row.peer.packages]})  # fmt: skip
    process = subprocess.Popen([python, str(RECIPES), given], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, env=environment, start_new_session=True)  # fmt: skip
    try:
        output, errors = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        row.reason = f"no end within {limit_s:.0f} s"
        return
    measured = [line.removeprefix(MARK) for line in output.splitlines() if line.startswith(MARK)]
    if process.returncode == 0 and measured:
        row.rounds.append(json.loads(measured[-1]))
    else:
        row.reason = (errors.strip().splitlines() or [f"ended with {process.returncode}"])[-1][:250]


def compare(rows: Sequence[Row], given: argparse.Namespace, job: dict[str, Any]) -> None:
    """Run the peers in rounds, every other one in the reverse order. The first starts without compiled code."""
    shutil.rmtree(given.out / "caches", ignore_errors=True)
    for number in range(given.rounds):
        for row in rows if number % 2 == 0 else reversed(rows):
            if row.reason:
                continue
            python, row.reason = python_of(row.peer, given.envs, given.limit)
            if not row.reason:
                run(row, python, job, given.out, given.limit)
            shown = row.reason or f"{median(row.rounds[-1]['seconds']):.3f} s"
            print(f"round {number + 1}: {row.peer.name}: {shown}", flush=True)


def read_once(folder: Path) -> None:
    """Read the model, so that the first process does not wait for a disk that later ones do not."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 24):
                    pass


def images_of(row: Row, out: Path) -> Path:
    """Return the file with the images of a peer's last process."""
    return out / f"images-{row.file_name}.npy"


# ---- the table ------------------------------------------------------------------------------------------------------


COLUMNS = (
    "peer", "s a call [95 %]", "against the first", "images differ", "cold first image, s",
    "from its cache, s", "J/image", "MHz", "W",
)  # fmt: skip


def table(rows: Sequence[Row], out: Path) -> list[str]:
    """Return the table in Markdown, then the peers that did not run."""
    lines = [f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|"]
    first = next((row for row in rows if row.rounds and not row.reason), None)
    for row in rows:
        if row.rounds and not row.reason:
            lines.append(f"| {' | '.join(cells(row, first, out))} |")
    missing = [f"- {row.peer.name}: {row.reason}" for row in rows if row.reason]
    return [*lines, *(["", "Not run:", "", *missing] if missing else [])]


def cells(row: Row, first: Row | None, out: Path) -> tuple[str, ...]:
    calls = [median(each["seconds"]) for each in row.rounds]
    found = latency_interval(calls) if len(calls) > 1 else None
    call = f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]" if found else f"{calls[0]:.3f}"
    starts = [each["first_image_s"] for each in row.rounds]
    warm = f"{median(starts[1:]):.1f}" if len(starts) > 1 else "-"
    known = [known_of(row, name) for name in ("joules", "clock_mhz", "power_w")]
    off = difference(row, first, out)
    return (row.peer.name, call, ratio(row, first), off, f"{starts[0]:.1f}", warm, *known)


def difference(row: Row, first: Row | None, out: Path) -> str:
    """Return how far a peer's images are from the first peer's with the same seeds, relative L2."""
    if first is None or first is row:
        return "-"
    ours, theirs = (np.load(images_of(each, out), allow_pickle=False) for each in (row, first))
    if ours.shape != theirs.shape:
        return "another size"
    return f"{np.linalg.norm(ours - theirs) / np.linalg.norm(theirs):.1%}"


def ratio(row: Row, first: Row | None) -> str:
    """Return how many times as fast as the first peer by image, with its interval from two rounds on."""
    if first is None or first is row:
        return "1"
    pairs = list(zip(first.rounds, row.rounds, strict=False))
    before, after = ([median(each[side]["seconds"]) / each[side]["batch"] for each in pairs] for side in (0, 1))
    if len(pairs) < 2:
        return f"{before[0] / after[0]:.2f}"
    found = paired_ratio(before, after)
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def known_of(row: Row, name: str) -> str:
    values = [each[name] for each in row.rounds if each[name] is not None]
    return format_number(median(values)) if values else "-"


def head(given: argparse.Namespace, rows: Sequence[Row]) -> str:
    versions: dict[str, str] = {}
    for row in rows:
        for each in row.rounds:
            versions = each["versions"] | versions
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    how = f"{given.rounds} rounds of {given.calls} calls, {given.steps} steps"
    return f"{given.family}, {given.size}, {how}, {listed}, {datetime.date.today():%Y-%m-%d}"


def arguments_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="flux", choices=tuple(pipelines.BUILDERS))
    parser.add_argument("--size", default="tiny", choices=("tiny", "full"))
    parser.add_argument("--model", type=Path, help="a pipeline's folder instead of random weights")
    parser.add_argument("--ours", type=Path, help="the Python file that tune export wrote for this folder")
    parser.add_argument("--only", nargs="+", default=(), metavar="PEER", help="only peers whose names have this")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=4, help="timed calls of a process (4)")
    parser.add_argument("--warm-ups", type=int, default=2, dest="warm_ups")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for a process, and for pip (900)")
    parser.add_argument("--envs", type=Path, help="where peers' environments are kept (DIR/envs)")
    parser.add_argument("--out", type=Path, default=Path("peers"))
    given = parser.parse_args(arguments)
    given.out = given.out.resolve()
    given.envs = given.envs or given.out / "envs"
    given.steps = given.steps or STEPS.get(given.family, 28)
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    given = arguments_of(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    model = given.model or given.out / "model" / f"{given.family}-{given.size}"
    if not model.exists():
        pipelines.write(given.family, model, given.size)
    read_once(model)
    call: dict[str, Any] = {"num_inference_steps": given.steps}
    if given.size == "tiny":
        call |= {"height": 32, "width": 32, **pipelines.CALL.get(given.family, {})}
    job = {"model": str(model.resolve()), "call": call, "prompt": PROMPT, "calls": given.calls,
           "warm_ups": given.warm_ups, "exported": str(given.ours.resolve()) if given.ours else ""}  # fmt: skip
    rows = [Row(peer) for peer in PEERS if not given.only or any(words in peer.name for words in given.only)]
    for row in rows:
        if row.peer.families and given.family not in row.peer.families:
            row.reason = f"not for {given.family}"
        elif row.peer.recipe == "ours" and not given.ours:
            row.reason = "no exported file was given (--ours)"
    compare(rows, given, job)
    text = "\n".join([head(given, rows), "", *table(rows, given.out)]) + "\n"
    atomic_write(given.out / f"peers-{given.family}.md", text.encode())
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

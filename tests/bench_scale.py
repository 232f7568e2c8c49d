"""What a host of several GPUs gives: trials a minute, false gains, one image on all GPUs, a GPU that is taken away.

`python tests/bench_scale.py` takes all visible GPUs, makes the pipelines, runs each part in a process of its own with a
time limit, and prints one table last. Names of parts choose some: rate-demo, rate-flux, false-gains, parallel-flux,
parallel-wan, lost. What a part found is kept in `--folder`: the same command goes on with those that are missing, and
shows all. `--budget` is that of each study. On a machine without a GPU the CPU passes for several devices, and the
pipelines are tiny: that tries the script and measures nothing; `--simulated` does so in minutes. The parts are in
scale_bench/.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from scale_bench.host import Host
from scale_bench.parts import PARTS, Figures

from tuner.hardware import environment, gpus

ASKED: Mapping[int, Mapping[str, str]] = {
    2: {"rate": "1.85x", "parallel-flux": "1.75x", "parallel-wan": "1.85x"},
    4: {"rate": "3.6x", "parallel-flux": "3.0x", "parallel-wan": "3.4x"},
}
"""By the number of GPUs, the ratios that are asked for."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--devices", type=int, help="how many (default: all visible GPUs, or 2 on a CPU)")
    parser.add_argument("--folder", type=Path, default=Path("traces/bench-scale"))
    parser.add_argument("--budget", default="10m", help="of each study (10m)")
    parser.add_argument("--limit", type=float, help="seconds for each part (default: its own)")
    parser.add_argument("--simulated", action="store_true", help="make all figures of studies up: to try the script")
    parser.add_argument("--again", action="store_true", help="also what was measured before")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    unknown = set(given.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    return given


def main(arguments: Sequence[str]) -> int:
    given = parse(arguments)
    here = environment.detect()
    visible = len(gpus.visible_gpus()) if here.device == "cuda" else 2
    size = "full" if here.device == "cuda" else "tiny"
    host = Host(given.devices or visible, here.device, given.folder.resolve(), size, given.budget)
    host.folder.mkdir(parents=True, exist_ok=True)
    os.environ.update({"TUNER_SIMULATED": "1"} if given.simulated else {})
    if given.part:
        answer(host, given.part)
        return 0
    for name in given.parts or PARTS:
        if given.again or "failed" in known(host, name, {"failed": "not run"}):
            run(host, name, arguments, given.limit or PARTS[name][0])
    print(f"\n{host.devices} x {here.device_name}, {datetime.now(UTC):%Y-%m-%d}, {versions(here.libraries)}\n")
    print("\n".join(table(host)))
    return 0


def answer(host: Host, name: str) -> None:
    """Do a part, and keep what it found, or why it found nothing."""
    try:
        found = PARTS[name][1](host)
    except Exception as error:
        found = {"failed": str(error) or type(error).__name__}
    (host.folder / f"{name}.json").write_text(json.dumps(found))


def run(host: Host, name: str, arguments: Sequence[str], limit_s: float) -> None:
    """Run a part in a process of its own, and kill it with all that it started when its time is up."""
    file = host.folder / f"{name}.json"
    file.unlink(missing_ok=True)
    print(f"{name} ...", flush=True)
    process = subprocess.Popen([sys.executable, __file__, *arguments, "--part", name], start_new_session=True)
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with_all(process)
    if not file.exists():
        file.write_text(json.dumps({"failed": f"not done after {limit_s:.0f} s"}))
    print(f"{name}: {known(host, name, {})}", flush=True)


def with_all(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a part. Its studies see that, and end their workers."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def known(host: Host, name: str, default: Figures) -> Figures:
    """Return what a part found."""
    file = host.folder / f"{name}.json"
    return dict(json.loads(file.read_text())) if file.exists() else default


def table(host: Host) -> list[str]:
    """Return the table of all parts."""
    asked = ASKED.get(host.devices, {})
    lines = [f"| figure, {host.devices} devices | measured | asked |", "| --- | --- | --- |"]
    for name in PARTS:
        wanted = asked.get(name) or asked.get(name.split("-")[0], "")
        lines += [
            f"| {name}: {figure} | {value if isinstance(value, str) else f'{value:.4g}'} | "
            f"{wanted if figure == 'ratio' else ''} |"
            for figure, value in known(host, name, {"failed": "not run"}).items()
        ]
    return lines


def versions(libraries: Mapping[str, str | None]) -> str:
    """Return the versions that figures depend on."""
    return ", ".join(f"{name} {libraries[name]}" for name in ("torch", "diffusers", "torchao") if libraries.get(name))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

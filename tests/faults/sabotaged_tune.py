"""The command `tune` with sabotaged workers, and with the deadlines in TUNER_DEADLINES (JSON, stage to seconds).

With TUNER_DEVICES the CPU passes for so many devices; one is lost when its index is a file in the folder TUNER_HIDDEN.
With TUNER_RAY the actors of a Ray cluster are those of `ray_nodes.py`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tuner import cli
from tuner.commands import devices
from tuner.execution import launch, process, template
from tuner.execution.ray import cluster
from tuner.hardware import gpus
from tuner.records.outcome import Device
from tuner.search import baseline, budget
from tuner.study import finalists, slots

EMPTY_PANEL = """
import pathlib, sys
pathlib.Path(sys.argv[2]).write_text('{"finalists": {}, "unavailable_reasons": {}}')
"""
TEMPLATE = (sys.executable, str(Path(__file__).with_name("simulated_template.py")))
WORKER = (sys.executable, str(Path(__file__).with_name("sabotaged_worker.py")))


def hidden(device: Device, *_: object, **__: object) -> gpus.Trouble | None:
    """A device is lost once there is a file of its name."""
    is_hidden = (Path(os.environ["TUNER_HIDDEN"]) / str(device.index)).exists()
    return gpus.Trouble("the driver does not find it any more", is_lost=True) if is_hidden else None


def pretend_devices(count: int) -> None:
    """Let the CPU pass for several devices, which workers know by CUDA_VISIBLE_DEVICES."""
    found = {Device(name="cpu", index=index): launch.Place(f"GPU-{index}") for index in range(count)}
    devices.places = lambda *_: found
    gpus.trouble_of = hidden


def main(arguments: list[str]) -> int:
    """Run a command with everything planted that the environment names."""
    if "TUNER_DEVICES" in os.environ:
        pretend_devices(int(os.environ["TUNER_DEVICES"]))
    if "TUNER_RAY" in os.environ:
        sys.path.append(str(Path(__file__).parent.parent))
        from ray_nodes import SimulatedActor

        cluster.ACTOR = SimulatedActor
    assert baseline.MAX_BASELINES > 2
    baseline.MAX_BASELINES = 2  # simulated timings have no noise
    launch.WORKER = WORKER
    template.TEMPLATE = TEMPLATE
    finalists.EXAMINER = (sys.executable, "-c", EMPTY_PANEL)  # images that are made up say nothing
    slots.MAX_SLOTS["cpu"] = int(os.environ.get("TUNER_SLOTS", "1"))  # faults are planted by the order of the workers
    deadlines = json.loads(os.environ.get("TUNER_DEADLINES", "{}"))
    process.DEADLINES_S.update(deadlines)
    if "compile" in deadlines:  # which the study's budget decides
        budget.MAX_COMPILE_LIMIT_S = deadlines["compile"]
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

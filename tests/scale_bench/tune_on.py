"""The command `tune` on a host whose devices can be hidden, as a GPU is that fell off its bus.

A device is lost when its index is a file in the folder SCALE_HIDDEN. With SCALE_DEVICES the CPU passes for so many.
With TUNER_SIMULATED workers make their figures up, as those of tests/faults do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tuner import cli
from tuner.commands import devices
from tuner.execution import launch, template
from tuner.hardware import gpus
from tuner.records.outcome import Device
from tuner.study import finalists

LOST = gpus.Trouble("it is hidden", is_lost=True)
look: Callable[..., gpus.Trouble | None] = gpus.trouble_of


def look_at(device: Device, *group: Sequence[str], may_be_shared: bool = False) -> gpus.Trouble | None:
    is_hidden = (Path(os.environ["SCALE_HIDDEN"]) / str(device.index)).exists()
    return LOST if is_hidden else look(device, *group, may_be_shared=may_be_shared)


def never_in_trouble(*_: object, **__: object) -> None:
    """Say of a device that only passes for a GPU what NVML cannot say."""


def simulate_workers() -> None:
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    from faults.sabotaged_tune import EMPTY_PANEL, WORKER

    launch.WORKER = WORKER
    template.make_launcher = lambda cache, _, place=launch.ANYWHERE: launch.FreshLauncher(cache, place)
    finalists.EXAMINER = (sys.executable, "-c", EMPTY_PANEL)


if __name__ == "__main__":
    if "TUNER_SIMULATED" in os.environ:
        simulate_workers()
    gpus.trouble_of = look_at
    if "SCALE_DEVICES" in os.environ:
        pretended = range(int(os.environ["SCALE_DEVICES"]))
        found = {
            Device(name="cpu", index=index, uuid=f"CPU-{index}"): launch.Place(f"CPU-{index}") for index in pretended
        }
        devices.places = lambda *_: found
        look = never_in_trouble
    sys.exit(cli.main(sys.argv[1:]))

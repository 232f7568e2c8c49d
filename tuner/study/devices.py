"""The devices of a study that has several: one that is lost, busy or held back is taken out, and others do its work."""

from __future__ import annotations

import time
from collections.abc import Callable

from tuner.errors import StudyFailed
from tuner.hardware.gpus import Trouble
from tuner.records.outcome import Device, Failure
from tuner.search.history import History
from tuner.study.course import keep_taken_out
from tuner.study.store import Store

CHECK_S = 5.0
"""Before a worker starts, its device is looked at again after so many seconds."""

Check = Callable[[Device], Trouble | None]


class Devices:
    """Which devices can be used (`history.devices`), and what is wrong with one. A single device is never taken out."""

    def __init__(self, store: Store, history: History, check: Check) -> None:
        self.store = store
        self.history = history
        self.check = check
        self.are_several = len(history.devices) > 1
        self.checked: dict[Device, float] = {}

    def trouble_before(self, device: Device) -> str | None:
        """Return why no worker should start on a device now. The last one is used, whatever it is."""
        if len(self.history.devices) < 2 or time.monotonic() - self.checked.get(device, 0.0) < CHECK_S:
            return None
        self.checked[device] = time.monotonic()
        trouble = self.check(device)
        return trouble.reason if trouble else None

    def trouble_after(self, device: Device, failure: Failure) -> str | None:
        """Return what is wrong with the device on which an attempt failed: then that says nothing of the attempt."""
        if not self.are_several:
            return None
        trouble = self.check(device)
        if trouble is None and failure.kind == "throttled":
            trouble = Trouble(f"held back: {failure.message}", is_lost=False)
        is_last = self.history.devices == [device]
        return trouble.reason if trouble and (trouble.is_lost or not is_last) else None

    def take_out(self, device: Device, reason: str) -> str:
        """Take out a device and record why. Returns what to tell. Raises StudyFailed if it was the last one."""
        self.history.devices.remove(device)
        keep_taken_out(self.store, device, reason)
        text = f"{device.title} is taken out: {reason}"
        if not self.history.devices:
            raise StudyFailed(f"{text}; no other is left; the same command goes on with those that can be used then")
        return f"{text}; what ran there is tried elsewhere"

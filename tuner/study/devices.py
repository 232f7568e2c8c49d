"""The devices of a study that has several: one that is lost, busy or held back is taken out, and others do its work."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from tuner.errors import StudyFailed
from tuner.hardware.gpus import Trouble
from tuner.records.outcome import Device, Failure, Outcome
from tuner.search.history import BASELINE, History
from tuner.search.strategy import Proposal
from tuner.space.candidates import build_key
from tuner.study.flight import Flight

CHECK_S = 5.0
"""Before a worker starts, its device is looked at again after so many seconds."""

AGAIN_S = 300.0
"""A device that was busy or held back is looked at again after so many seconds."""

RETURN_S = 120.0
"""Where no device is left, one that may come back is waited for."""

NOT_TIMED = Trouble("the untouched pipeline was not timed there", is_lost=False)

Check = Callable[[Device], Trouble | None]


class Devices:
    """Which devices can be used (`history.devices`), and what is wrong with one.

    A single device is taken out only if it is lost and may come back.
    """

    def __init__(self, history: History, check: Check) -> None:
        self.history = history
        self.check = check
        self.all = tuple(history.devices)
        self.checked: dict[Device, float] = {}
        self.resting: dict[Device, float] = {}
        """What was taken out for a while, and when it is looked at again."""
        self.suspects: set[str] = set()
        """The builds that ran on a device when it was lost: one of them may be the cause."""

    def trouble_before(self, device: Device) -> Trouble | None:
        """Return why no worker should start on a device now. The last one is used in any case."""
        is_one_of_several = device in self.history.devices and len(self.history.devices) > 1
        if not is_one_of_several or time.monotonic() - self.checked.get(device, 0.0) < CHECK_S:
            return None
        self.checked[device] = time.monotonic()
        return self.check(device)

    def trouble_after(self, device: Device, failure: Failure) -> Trouble | None:
        """Return what is wrong with the device on which an attempt failed: then that says nothing of the attempt."""
        if device not in self.history.devices:
            return None
        trouble = self.check(device)
        if len(self.all) < 2:
            return trouble if trouble and trouble.again_s is not None else None
        if trouble is None and failure.kind == "throttled":
            trouble = Trouble(f"held back: {failure.message}", is_lost=False)
        is_last = self.history.devices == [device]
        return trouble if trouble and (trouble.is_lost or not is_last) else None

    def trouble_of_baseline(self, device: Device, run: Outcome) -> Trouble | None:
        """Return why nothing on a device can be compared: the untouched pipeline could not be timed there."""
        if run.failure is None or run.number != BASELINE or self._has_baseline(device):
            return None
        reason = f"the untouched pipeline could not be timed: {run.failure.message}"
        return Trouble(reason, is_lost=False) if len(self.history.devices) > 1 else None

    def take_out(self, device: Device, trouble: Trouble) -> str:
        """Take out a device. Returns what to tell. Raises StudyFailed if it was the last one, and none comes back."""
        self.history.devices.remove(device)
        self._let_rest(device, trouble)
        text = f"{device.title} is taken out: {trouble.reason}"
        ends = time.monotonic() + RETURN_S
        while not self.history.devices and (next_s := min(self.resting.values(), default=math.inf)) <= ends:
            time.sleep(max(0.0, next_s - time.monotonic()))
            text = "; ".join([text, *self.put_back()])
        if not self.history.devices:
            raise StudyFailed(f"{text}; no other is left; the same command goes on with those that can be used then")
        return f"{text}; what ran there is tried elsewhere"

    def put_back(self) -> list[str]:
        """Put back devices whose trouble has passed, and return what to tell.

        Once the untouched pipeline is recorded, it must have been timed there.
        """
        found = []
        for device in [device for device, at in self.resting.items() if time.monotonic() >= at]:
            del self.resting[device]
            is_comparable = BASELINE not in self.history.outcomes or self._has_baseline(device)
            trouble = self.check(device) if is_comparable else NOT_TIMED
            if trouble is None:
                found.append(device)
            else:
                self._let_rest(device, trouble)
        if found:
            usable = {*self.history.devices, *found}
            self.history.devices[:] = [device for device in self.all if device in usable]
        return [f"{device.title} is used again" for device in found]

    def _let_rest(self, device: Device, trouble: Trouble) -> None:
        """Look at a device again after a while, unless it is lost for good."""
        again_s = trouble.again_s or (None if trouble.is_lost else AGAIN_S)
        if again_s is not None:
            self.resting[device] = time.monotonic() + again_s

    # ---- builds that may be the cause -------------------------------------------------------------------------------

    def excused(self, device: Device, trouble: Trouble, flights: Sequence[Flight]) -> list[Flight]:
        """Return what is made again elsewhere after a device was taken out.

        If it is lost, the builds there are suspects from now on. One that was a suspect before fails by itself.
        """
        there = [flight for flight in flights if flight.device == device]
        if not trouble.is_lost:
            return there
        found = [flight for flight in there if not self.is_suspect(flight.proposal)]
        self.suspects |= {build_key(flight.proposal.values) for flight in found if flight.proposal.repeats is None}
        return found

    def is_suspect(self, proposal: Proposal) -> bool:
        """Return whether a build ran on a device when it was lost."""
        return proposal.repeats is None and build_key(proposal.values) in self.suspects

    def may_move(self, proposal: Proposal, device: Device, flights: Sequence[Flight]) -> bool:
        """Return whether a build may be made on a device: two suspects at once could not be told from each other."""
        others = [flight.proposal for flight in flights if flight.device == device]
        return not self.is_suspect(proposal) or not any(map(self.is_suspect, others))

    def _has_baseline(self, device: Device) -> bool:
        return BASELINE in self.history.outcomes and bool(self.history.baseline_on(device))

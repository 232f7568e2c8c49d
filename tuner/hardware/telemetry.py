"""The GPU during timed calls: clocks, power, temperature, energy and other users, read through NVML.

Nothing here changes a setting of the GPU. If NVML or one of its counters is missing, the run goes on, and the result
says what is unavailable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import compress
from statistics import median
from typing import Any, NamedTuple

import psutil

from tuner.hardware.nvml import GpuSample, NvmlDevice, error_text, open_device, reason_names
from tuner.records.machine import GpuUse, ProbeState
from tuner.timing.intervals import mean_interval

LOW_CLOCK = 0.75
"""A sample below this share of the maximum SM clock, and under no cap, does not show what the GPU can do."""

CAPS = {"SW power cap", "clocks set by a user"}
"""Clock events that explain a low clock by the configuration of the machine. GPUs with a low power limit (L4, T4, H100
PCIe) run capped all the time, also in production. Such a sample counts, and the event is reported."""

BRAKES = ("HW thermal slowdown", "HW power brake", "SW thermal slowdown", "HW slowdown")
"""Clock events caused by heat or by the power supply, the most specific first. A cap is not one of them."""

IDLE = 0x001

UNSEEN_BYTES = 1 << 30
"""Memory in use that no process explains, from which on it is attributed to other users."""


SHARED = "memory of other users: it cannot be told from that of this study's other workers"


class OwnUse(NamedTuple):
    """What a study takes of a GPU beside this process.

    Its processes descend from `root`. One of them lends `lent_bytes` of weights. `is_shared` means that other workers
    use the GPU too.
    """

    root: int | None = None
    lent_bytes: int = 0
    is_shared: bool = False

    def processes(self) -> frozenset[int]:
        """Return the processes of the study."""
        try:
            return frozenset(child.pid for child in psutil.Process(self.root).children(recursive=True))
        except psutil.Error:
            return frozenset()


ALONE = OwnUse()
"""A process that is no study's."""


class GpuMonitor:
    """Reads a GPU before and after each timed call, and decides whether the call counts."""

    def __init__(
        self, gpu: NvmlDevice, taken_bytes: int | None = None, held: Callable[[], int] = lambda: 0,
        own: OwnUse = ALONE,
    ) -> None:  # fmt: skip
        """Start to monitor `gpu`.

        `taken_bytes` is the memory in use before this process used the GPU. `held()` returns the bytes that this
        process holds now, and `own` is what its study takes beside it.
        """
        self.gpu = gpu
        self.own = own
        self.taken_bytes = taken_bytes
        self.held = held
        self.unexplained = self._unexplained_bytes()
        self.sm_clock_max_mhz = gpu.sm_clock_max_mhz()
        self.samples: list[GpuSample] = []
        self.calls = 0
        self.events: Counter[str] = Counter()
        self.discarded: Counter[str] = Counter()
        self.before = gpu.counters()

    def begin(self) -> None:
        """Read the counters before a timed call."""
        self.before = self.gpu.counters()

    def end(self) -> str | None:
        """Return why the sample of the call must be discarded, or None to keep it."""
        before, after = self.before, self.gpu.counters()
        energy_j = None
        if before.energy_mj is not None and after.energy_mj is not None:
            energy_j = (after.energy_mj - before.energy_mj) / 1e3
        sample = self.gpu.sample(energy_j)
        events = reason_names((before.reasons or 0) | (after.reasons or 0))
        events |= {name for name, ns in after.braked_ns.items() if ns > before.braked_ns.get(name, ns)}
        self.calls += 1
        self.events.update(events)
        reason = self._discard_reason(events, sample, is_idle=bool((after.reasons or 0) & IDLE))
        if reason is None:
            self.samples.append(sample)
        else:
            self.discarded[reason] += 1
        return reason

    def keep(self, counts: Sequence[bool]) -> None:
        """Keep only those of the calls kept so far that still count."""
        self.samples = list(compress(self.samples, counts))

    def report(self) -> GpuUse:
        """Summarize the readings of all calls so far."""
        others, joules = self.gpu.others(self.own.processes()), self._joules()
        shared = SHARED if self.own.is_shared and others.memory_bytes is None else None
        constant = "energy: the counter stood still" if joules and not any(joules) else None
        reasons = self.gpu.unavailable_reasons
        knows_events = "clock event reasons" not in reasons
        return GpuUse(
            sm_clock_mhz=_median([sample.sm_clock_mhz for sample in self.samples]),
            sm_clock_max_mhz=self.sm_clock_max_mhz,
            memory_clock_mhz=_median([sample.memory_clock_mhz for sample in self.samples]),
            power_w=_median([sample.power_w for sample in self.samples]),
            temperature_c=_median([sample.temperature_c for sample in self.samples]),
            # The counter moves in steps longer than a short call, hence the mean instead of the median.
            energy_j=mean_interval(joules) if len(joules) > 1 and any(joules) else None,
            calls=self.calls if knows_events else None,
            events=dict(self.events) if knows_events else None,
            discarded=dict(self.discarded),
            other_processes=others.processes,
            other_memory_bytes=self._others_bytes() if others.memory_bytes is None else others.memory_bytes,
            unavailable_reasons=(*reasons.values(), *filter(None, (others.unavailable_reason, shared, constant))),
        )

    def _unexplained_bytes(self) -> int | None:
        """Return the memory in use that this process does not hold."""
        used = self.gpu.memory_bytes()
        return None if used is None else used - self.held()

    def _others_bytes(self) -> int | None:
        """Estimate the memory of other processes when NVML does not list them.

        It is what was in use before this process started, and what has been added since and is not held by this
        process. Returns None below 1 GiB, which the driver itself may take, and if workers of the same study come and
        go.
        """
        now = self._unexplained_bytes()
        if self.own.is_shared or now is None or self.unexplained is None or self.taken_bytes is None:
            return None
        others = self.taken_bytes + max(0, now - self.unexplained)
        return others if others >= UNSEEN_BYTES else None

    def _discard_reason(self, events: set[str], sample: GpuSample, is_idle: bool) -> str | None:
        brake = next((name for name in BRAKES if name in events), None)
        if brake is not None:
            return brake
        # A GPU that waits for the host to finish the call lowers its clock; that says nothing about the call itself.
        if is_idle or sample.sm_clock_mhz is None or self.sm_clock_max_mhz is None:
            return None
        if sample.sm_clock_mhz < LOW_CLOCK * self.sm_clock_max_mhz and not events & CAPS:
            return f"SM clock under {LOW_CLOCK:.0%} of its maximum"
        return None

    def _joules(self) -> list[float]:
        """Return the energy of each call that counts, or nothing unless it is known for all of them."""
        joules = [sample.energy_j for sample in self.samples if sample.energy_j is not None]
        return joules if len(joules) == len(self.samples) else []


class UnavailableMonitor:
    """A monitor without NVML: every call counts, and the report says why nothing is known."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def begin(self) -> None:
        """Do nothing."""

    def end(self) -> str | None:
        """Keep every sample."""
        return None

    def keep(self, counts: Sequence[bool]) -> None:
        """Do nothing."""

    def report(self) -> GpuUse:
        """Return a record with only the reason."""
        return GpuUse(unavailable_reasons=(self.reason,))


class Nvml:
    """NVML, opened once per process and before the process uses the GPU. Makes a monitor for each measurement."""

    def __init__(self, uuid: str, bus_id: str | None, nvml: Any = None, own: OwnUse = ALONE) -> None:
        """Open the GPU with this UUID or `bus_id`; see `nvml.open_device`. What is `own` counts as no other user."""
        if nvml is None:
            import pynvml

            nvml = pynvml
        self.gpu: NvmlDevice | None = None
        self.own = own
        self.taken_bytes: int | None = None
        self.unavailable_reason = ""
        try:
            self.gpu = open_device(nvml, uuid, bus_id)
            taken_bytes = self.gpu.memory_bytes()
            self.taken_bytes = None if taken_bytes is None else max(0, taken_bytes - own.lent_bytes)
        except nvml.NVMLError as error:
            self.unavailable_reason = f"NVML: {error_text(error)}"

    @classmethod
    def for_torch(cls, own: OwnUse = ALONE) -> Nvml:
        """Open the GPU that torch calls cuda:0. What is `own` counts as no other user."""
        import torch

        gpu = torch.cuda.get_device_properties(0)
        bus: list[Any] = [getattr(gpu, f"pci_{name}_id", None) for name in ("domain", "bus", "device")]
        bus_id = None if None in bus else "{:08X}:{:02X}:{:02X}.0".format(*bus)
        return cls(f"GPU-{gpu.uuid}", bus_id, own=own)

    def state(self) -> ProbeState:
        """Return clock and power of this moment, and whether the power cap lowers the clock."""
        if self.gpu is None:
            return ProbeState()
        reasons, sample = self.gpu.reasons(), self.gpu.sample(None)  # an idle GPU drops its reasons at once
        is_capped = None if reasons is None else "SW power cap" in reason_names(reasons)
        return ProbeState(sm_clock_mhz=sample.sm_clock_mhz, power_w=sample.power_w, is_capped=is_capped)

    def monitor(self, held: Callable[[], int] = lambda: 0) -> GpuMonitor | UnavailableMonitor:
        """Make a monitor for one measurement. `held()` returns the bytes that this process holds now."""
        if self.gpu is None:
            return UnavailableMonitor(self.unavailable_reason)
        return GpuMonitor(self.gpu, self.taken_bytes, held, self.own)


def other_users_warning(use: tuple[int, int] | None) -> str | None:
    """Return a warning about other users of the GPU, to show before a study, or None if there are none.

    `use` is the number of processes that compute on the GPU and the bytes of its memory in use; None if unknown.
    """
    processes, memory_bytes = use or (0, 0)
    if not processes and memory_bytes < UNSEEN_BYTES:
        return None
    who = {0: "somebody", 1: "another process"}.get(processes, f"{processes} other processes")
    verb = "use" if processes > 1 else "uses"
    return f"{who} {verb} this GPU ({memory_bytes / 1e9:.1f} GB of its memory): times will vary with what they do"


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None

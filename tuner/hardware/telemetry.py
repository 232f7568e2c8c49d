"""The GPU watched while it is measured, through NVML: clocks, power, temperature, energy, and who else uses it.

Nothing here changes a setting of the GPU. Where NVML or one of its counters is missing the run goes on, and what is
lacking is said.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from tuner.records.machine import GpuUse
from tuner.timing.intervals import mean_interval, median

LOW_CLOCK = 0.75
"""A sample at less than this share of the greatest SM clock, and under no cap, does not show what the GPU can do."""

CAPS = {"SW power cap", "clocks set by a user"}
"""Clock events that explain a low clock by how the machine is set up. Cards with a low power limit (L4, T4, H100 PCIe)
run like that all the time, and will in production: such a sample counts, and so does the event."""

BRAKES = ("HW thermal slowdown", "HW power brake", "SW thermal slowdown", "HW slowdown")
"""Clock events that come from heat or from the power supply, the most telling first. A cap is none of them."""

REASONS = {
    0x001: "idle",
    0x002: "clocks set by a user",
    0x004: "SW power cap",
    0x008: "HW slowdown",
    0x010: "sync boost",
    0x020: "SW thermal slowdown",
    0x040: "HW thermal slowdown",
    0x080: "HW power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability",
}
"""The bits of NVML's clocks event reasons (nvml.h, group NvmlClocksEventReasons)."""

OLDER_REASONS = "nvmlDeviceGetCurrentClocksThrottleReasons"
"""What drivers before 535 call the clock event reasons."""

BRAKE_FIELDS = {269: "SW thermal slowdown", 270: "HW thermal slowdown", 271: "HW power brake"}
"""Fields of NVML that count the nanoseconds under a brake (NVML_FI_DEV_CLOCKS_EVENT_REASON_*), in newer drivers: they
also tell of a brake that began and ended inside a call."""

UNSEEN_BYTES = 1 << 30
"""Memory in use without a process that would explain it, from which on it is somebody else's."""

WHOLE_GPU = "MIG: power, energy and processes are those of the whole GPU, not of the part that this process uses"


class GpuSample(NamedTuple):
    """What NVML said right after a call that counts, and the energy that it took."""

    sm_clock_mhz: float | None
    memory_clock_mhz: float | None
    power_w: float | None
    temperature_c: float | None
    energy_j: float | None


class GpuCounters(NamedTuple):
    """What must be known before a call to judge it after."""

    energy_mj: int | None
    reasons: int | None
    braked_ns: dict[str, int]


class OtherProcesses(NamedTuple):
    """The other processes on a GPU and the bytes that they hold; None for what cannot be told.

    `unavailable_reasons` says why.
    """

    processes: int | None
    memory_bytes: int | None
    unavailable_reasons: str | None = None


class NvmlDevice:
    """One GPU as NVML sees it.

    `unavailable_reasons` gathers what it could not answer, once each: that is not asked again.
    """

    def __init__(self, nvml: Any, handle: object) -> None:
        self.nvml = nvml
        self.handle = handle
        self.unavailable_reasons: dict[str, str] = {}
        self.reasons_function = "nvmlDeviceGetCurrentClocksEventReasons"

    def ask(self, what: str, question: str, *arguments: Any) -> Any:
        """The answer of an NVML function about this GPU, or None, from then on without asking again."""
        if what in self.unavailable_reasons:
            return None
        try:
            return getattr(self.nvml, question)(self.handle, *arguments)
        except self.nvml.NVMLError as error:
            self.unavailable_reasons[what] = f"{what}: {_said(error)}"
            return None

    def reasons(self) -> int | None:
        """The clock event reasons of this moment as bits."""
        what = "clock event reasons"
        answer: int | None = self.ask(what, self.reasons_function)
        if what in self.unavailable_reasons and self.reasons_function != OLDER_REASONS:
            self.reasons_function = OLDER_REASONS
            del self.unavailable_reasons[what]
            return self.reasons()
        return answer

    def braked_ns(self) -> dict[str, int]:
        """Nanoseconds under each brake since the driver was loaded, of those that the driver counts."""
        values = self.ask("time under a brake", "nvmlDeviceGetFieldValues", list(BRAKE_FIELDS))
        return {BRAKE_FIELDS[v.fieldId]: int(v.value.ullVal) for v in values or () if v.nvmlReturn == 0}

    def energy_mj(self) -> int | None:
        """Millijoules since the driver was loaded."""
        answer: int | None = self.ask("energy", "nvmlDeviceGetTotalEnergyConsumption")
        return answer

    def sm_clock_max_mhz(self) -> int | None:
        answer: int | None = self.ask("greatest SM clock", "nvmlDeviceGetMaxClockInfo", self.nvml.NVML_CLOCK_SM)
        return answer

    def sample(self, energy_j: float | None) -> GpuSample:
        power_mw = self.ask("power", "nvmlDeviceGetPowerUsage")
        return GpuSample(
            sm_clock_mhz=self.ask("SM clock", "nvmlDeviceGetClockInfo", self.nvml.NVML_CLOCK_SM),
            memory_clock_mhz=self.ask("memory clock", "nvmlDeviceGetClockInfo", self.nvml.NVML_CLOCK_MEM),
            power_w=None if power_mw is None else power_mw / 1e3,
            temperature_c=self.ask("temperature", "nvmlDeviceGetTemperature", self.nvml.NVML_TEMPERATURE_GPU),
            energy_j=energy_j,
        )

    def memory_bytes(self) -> int | None:
        """What all processes together hold of this GPU's memory, those that a container hides too."""
        if "MIG" in self.unavailable_reasons:
            return None
        memory = self.ask("memory in use", "nvmlDeviceGetMemoryInfo")
        return None if memory is None else int(memory.used)

    def others(self) -> OtherProcesses:
        """Who else computes on this GPU now."""
        processes = self.ask("processes", "nvmlDeviceGetComputeRunningProcesses")
        if processes is None:  # which `unavailable_reasons` says already
            return OtherProcesses(None, None)
        others = [process for process in processes if process.pid != os.getpid()]
        if len(others) == len(processes):  # this process computes too, so a container hides it, or its number
            shown = f"{len(processes)} shown, none with the number of this one: they cannot be told apart"
            return OtherProcesses(
                None, None, f"processes: {shown}" if processes else "processes: none shown, not even this one"
            )
        held = [process.usedGpuMemory for process in others]
        return OtherProcesses(len(others), None if None in held else sum(held))


class GpuMonitor:
    """Looks at a GPU before and after each timed call, and judges whether the call counts."""

    def __init__(self, gpu: NvmlDevice, taken_bytes: int | None = None, held: Callable[[], int] = lambda: 0) -> None:
        """`taken_bytes` were in use before this process used the GPU, `held` says what it holds at the moment."""
        self.gpu = gpu
        self.taken_bytes = taken_bytes
        self.held = held
        self.unexplained = self._unexplained()
        self.maximum = gpu.sm_clock_max_mhz()
        self.samples: list[GpuSample] = []
        self.events: Counter[str] = Counter()
        self.discarded: Counter[str] = Counter()
        self.before = self._counters()

    def begin(self) -> None:
        """A call is about to be timed."""
        self.before = self._counters()

    def end(self) -> str | None:
        """A call was timed: why its sample must be discarded, or None to keep it."""
        before, after = self.before, self._counters()
        energy = None
        if before.energy_mj is not None and after.energy_mj is not None:
            energy = (after.energy_mj - before.energy_mj) / 1e3
        sample = self.gpu.sample(energy)
        seen = names((before.reasons or 0) | (after.reasons or 0))
        seen |= {name for name, ns in after.braked_ns.items() if ns > before.braked_ns.get(name, ns)}
        self.events.update(seen)
        reason = self._brake(seen, sample, is_idle=bool((after.reasons or 0) & 0x001))
        if reason is None:
            self.samples.append(sample)
        else:
            self.discarded[reason] += 1
        return reason

    def report(self) -> GpuUse:
        """What was seen."""
        others, joules = self.gpu.others(), self._joules()
        stood_still = "energy: the counter stood still" if joules and not any(joules) else None
        return GpuUse(
            sm_clock_mhz=_median([sample.sm_clock_mhz for sample in self.samples]),
            sm_clock_max_mhz=self.maximum,
            memory_clock_mhz=_median([sample.memory_clock_mhz for sample in self.samples]),
            power_w=_median([sample.power_w for sample in self.samples]),
            temperature_c=_median([sample.temperature_c for sample in self.samples]),
            # The counter moves in steps longer than a short call, hence the mean, not the median.
            energy_j=mean_interval(joules) if len(joules) > 1 and any(joules) else None,
            events=None if "clock event reasons" in self.gpu.unavailable_reasons else dict(self.events),
            discarded=dict(self.discarded),
            other_processes=others.processes,
            other_memory_bytes=self._others_bytes() if others.memory_bytes is None else others.memory_bytes,
            unavailable_reasons=(
                *self.gpu.unavailable_reasons.values(),
                *filter(None, (others.unavailable_reasons, stood_still)),
            ),
        )

    def _unexplained(self) -> int | None:
        """The memory in use that this process does not say it holds."""
        used = self.gpu.memory_bytes()
        return None if used is None else used - self.held()

    def _others_bytes(self) -> int | None:
        """What others must hold where processes are not shown: what was taken before this one came, and what has come
        since that this one does not hold. None where that is too little to tell from what the driver itself takes."""
        now = self._unexplained()
        if now is None or self.unexplained is None or self.taken_bytes is None:
            return None
        found = self.taken_bytes + max(0, now - self.unexplained)
        return found if found >= UNSEEN_BYTES else None

    def _counters(self) -> GpuCounters:
        return GpuCounters(self.gpu.energy_mj(), self.gpu.reasons(), self.gpu.braked_ns())

    def _brake(self, seen: set[str], sample: GpuSample, is_idle: bool) -> str | None:
        brake = next((name for name in BRAKES if name in seen), None)
        if brake is not None:
            return brake
        # A GPU that waits for the host to finish the call lowers its clock: that says nothing of the time before.
        if is_idle or sample.sm_clock_mhz is None or self.maximum is None:
            return None
        if sample.sm_clock_mhz < LOW_CLOCK * self.maximum and not seen & CAPS:
            return f"SM clock under {LOW_CLOCK:.0%} of its maximum"
        return None

    def _joules(self) -> list[float]:
        """What each call that counts took; none where that is not known of all of them."""
        joules = [sample.energy_j for sample in self.samples if sample.energy_j is not None]
        return joules if len(joules) == len(self.samples) else []


class UnavailableMonitor:
    """Stands for a GPU that NVML does not show: every call counts, and it is said why nothing is known."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def begin(self) -> None:
        """Nothing can be asked."""

    def end(self) -> str | None:
        return None

    def report(self) -> GpuUse:
        return GpuUse(unavailable_reasons=(self.reason,))


def names(reasons: int) -> set[str]:
    """The names of the bits of NVML's clock event reasons."""
    return {name for bit, name in REASONS.items() if reasons & bit}


class Nvml:
    """Opens NVML once for a process, before it uses the GPU, and gives a watch for each measurement."""

    def __init__(self, uuid: str, bus_id: str | None, nvml: Any = None) -> None:
        """`uuid` or `bus_id` (domain:bus:device.function) tells which GPU: NVML counts them in an order of its own."""
        if nvml is None:
            import pynvml

            nvml = pynvml
        self.gpu: NvmlDevice | None = None
        self.taken_bytes: int | None = None
        self.missing = ""
        try:
            nvml.nvmlInit()
            self.gpu = NvmlDevice(nvml, _handle(nvml, uuid, bus_id))
            if _is_part(self.gpu, uuid):
                self.gpu.unavailable_reasons["MIG"] = WHOLE_GPU
            self.taken_bytes = self.gpu.memory_bytes()
        except nvml.NVMLError as error:
            self.missing = f"NVML: {_said(error)}"

    @classmethod
    def for_torch(cls) -> Nvml:
        """For the GPU that torch calls cuda:0."""
        import torch

        gpu = torch.cuda.get_device_properties(0)
        bus: list[Any] = [getattr(gpu, f"pci_{name}_id", None) for name in ("domain", "bus", "device")]
        bus_id = None if None in bus else "{:08X}:{:02X}:{:02X}.0".format(*bus)
        return cls(f"GPU-{gpu.uuid}", bus_id)

    def monitor(self, held: Callable[[], int] = lambda: 0) -> GpuMonitor | UnavailableMonitor:
        """For one measurement; `held` says how many bytes this process holds at the moment."""
        return UnavailableMonitor(self.missing) if self.gpu is None else GpuMonitor(self.gpu, self.taken_bytes, held)


def _handle(nvml: Any, uuid: str, bus_id: str | None) -> object:
    try:
        return nvml.nvmlDeviceGetHandleByUUID(uuid)
    except nvml.NVMLError:
        if bus_id is None:
            raise
        return nvml.nvmlDeviceGetHandleByPciBusId(bus_id)  # part of a GPU (MIG) has a UUID of its own


def _is_part(gpu: NvmlDevice, uuid: str) -> bool:
    """Whether this process has a part of the GPU (MIG) instead of all of it."""
    if uuid.startswith("MIG-"):
        return True
    try:
        mode, _ = gpu.nvml.nvmlDeviceGetMigMode(gpu.handle)
    except gpu.nvml.NVMLError:  # most GPUs cannot be divided
        return False
    return bool(mode == gpu.nvml.NVML_DEVICE_MIG_ENABLE)


def other_users_warning(use: tuple[int, int] | None) -> str | None:
    """What to tell the user before a study about those who use the GPU already: `use` is how many processes compute
    on it, and how many bytes of its memory are taken. None when nobody does, or when it cannot be told."""
    processes, memory_bytes = use or (0, 0)
    if not processes and memory_bytes < UNSEEN_BYTES:
        return None
    who = {0: "somebody", 1: "another process"}.get(processes, f"{processes} other processes")
    verb = "use" if processes > 1 else "uses"
    return f"{who} {verb} this GPU ({memory_bytes / 1e9:.1f} GB of its memory): times will vary with what they do"


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _said(error: Exception) -> str:
    return str(error).strip() or type(error).__name__

"""What NVML reports about one GPU. Nothing here changes a setting of the GPU."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any, NamedTuple

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
"""The name of the clock event reasons in drivers before 535."""

BRAKE_FIELDS = {269: "SW thermal slowdown", 270: "HW thermal slowdown", 271: "HW power brake"}
"""NVML fields that count the nanoseconds under a brake (NVML_FI_DEV_CLOCKS_EVENT_REASON_*), in newer drivers. They also
show a brake that began and ended within a call."""

WHOLE_GPU = "MIG: power, energy and processes are those of the whole GPU, not of the part that this process uses"


class GpuSample(NamedTuple):
    """Readings right after a call that counts, and the energy of the call."""

    sm_clock_mhz: float | None
    memory_clock_mhz: float | None
    power_w: float | None
    temperature_c: float | None
    energy_j: float | None


class GpuCounters(NamedTuple):
    """Counters that are read before and after a call, to judge it."""

    energy_mj: int | None
    reasons: int | None
    braked_ns: dict[str, int]


class OtherProcesses(NamedTuple):
    """The number of other processes on a GPU and the bytes they hold; None for what is unknown.

    `unavailable_reason` says why.
    """

    processes: int | None
    memory_bytes: int | None
    unavailable_reason: str | None = None


class NvmlDevice:
    """A GPU as NVML sees it.

    `unavailable_reasons` says what NVML could not answer. Such a query is not repeated.
    """

    def __init__(self, nvml: Any, handle: object) -> None:
        self.nvml = nvml
        self.handle = handle
        self.unavailable_reasons: dict[str, str] = {}
        self.reasons_function = "nvmlDeviceGetCurrentClocksEventReasons"

    def query(self, quantity: str, function: str, *arguments: Any) -> Any:
        """Call an NVML function on this GPU. Returns None if it fails, from then on without calling it again."""
        if quantity in self.unavailable_reasons:
            return None
        try:
            return getattr(self.nvml, function)(self.handle, *arguments)
        except self.nvml.NVMLError as error:
            self.unavailable_reasons[quantity] = f"{quantity}: {error_text(error)}"
            return None

    def reasons(self) -> int | None:
        """Return the current clock event reasons as bits."""
        quantity = "clock event reasons"
        bits: int | None = self.query(quantity, self.reasons_function)
        if quantity in self.unavailable_reasons and self.reasons_function != OLDER_REASONS:
            self.reasons_function = OLDER_REASONS
            del self.unavailable_reasons[quantity]
            return self.reasons()
        return bits

    def braked_ns(self) -> dict[str, int]:
        """Return the nanoseconds under each brake since the driver was loaded, for the brakes that it counts."""
        values = self.query("time under a brake", "nvmlDeviceGetFieldValues", list(BRAKE_FIELDS))
        return {BRAKE_FIELDS[v.fieldId]: int(v.value.ullVal) for v in values or () if v.nvmlReturn == 0}

    def energy_mj(self) -> int | None:
        """Return the millijoules since the driver was loaded."""
        energy: int | None = self.query("energy", "nvmlDeviceGetTotalEnergyConsumption")
        return energy

    def counters(self) -> GpuCounters:
        """Read the counters that judge a call."""
        return GpuCounters(self.energy_mj(), self.reasons(), self.braked_ns())

    def sm_clock_max_mhz(self) -> int | None:
        """Return the maximum SM clock."""
        clock: int | None = self.query("maximum SM clock", "nvmlDeviceGetMaxClockInfo", self.nvml.NVML_CLOCK_SM)
        return clock

    def sample(self, energy_j: float | None) -> GpuSample:
        """Read clocks, power and temperature."""
        power_mw = self.query("power", "nvmlDeviceGetPowerUsage")
        return GpuSample(
            sm_clock_mhz=self.query("SM clock", "nvmlDeviceGetClockInfo", self.nvml.NVML_CLOCK_SM),
            memory_clock_mhz=self.query("memory clock", "nvmlDeviceGetClockInfo", self.nvml.NVML_CLOCK_MEM),
            power_w=None if power_mw is None else power_mw / 1e3,
            temperature_c=self.query("temperature", "nvmlDeviceGetTemperature", self.nvml.NVML_TEMPERATURE_GPU),
            energy_j=energy_j,
        )

    def memory_bytes(self) -> int | None:
        """Return the GPU memory that all processes hold, including those that a container hides."""
        if "MIG" in self.unavailable_reasons:
            return None
        memory = self.query("memory in use", "nvmlDeviceGetMemoryInfo")
        return None if memory is None else int(memory.used)

    def others(self, ours: Collection[int] = ()) -> OtherProcesses:
        """Return the other processes that compute on this GPU now. The processes `ours` are not counted."""
        processes = self.query("processes", "nvmlDeviceGetComputeRunningProcesses")
        if processes is None:  # `unavailable_reasons` says so already
            return OtherProcesses(None, None)
        others = [process for process in processes if process.pid != os.getpid()]
        if len(others) == len(processes):  # this process computes too, so a container hides it or its number
            return OtherProcesses(None, None, _hidden_reason(len(processes)))
        held = [process.usedGpuMemory for process in others if process.pid not in ours]
        return OtherProcesses(len(held), None if None in held else sum(held))

    def is_mig(self) -> bool:
        """Return whether the GPU is divided into parts (MIG)."""
        try:
            mode, _ = self.nvml.nvmlDeviceGetMigMode(self.handle)
        except self.nvml.NVMLError:  # most GPUs cannot be divided
            return False
        return bool(mode == self.nvml.NVML_DEVICE_MIG_ENABLE)


def _hidden_reason(count: int) -> str:
    if not count:
        return "processes: none shown, not even this one"
    return f"processes: {count} shown, none with the number of this one: they cannot be told apart"


def open_device(nvml: Any, uuid: str, bus_id: str | None) -> NvmlDevice:
    """Open a GPU by its UUID, or by `bus_id` (domain:bus:device.function): NVML numbers GPUs in an order of its own."""
    nvml.nvmlInit()
    try:
        device = NvmlDevice(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))
    except nvml.NVMLError:
        if bus_id is None:
            raise
        # A part of a GPU (MIG) has a UUID of its own.
        device = NvmlDevice(nvml, nvml.nvmlDeviceGetHandleByPciBusId(bus_id))
    if uuid.startswith("MIG-") or device.is_mig():
        device.unavailable_reasons["MIG"] = WHOLE_GPU
    return device


def reason_names(bits: int) -> set[str]:
    """Return the names of the bits of NVML's clock event reasons."""
    return {name for bit, name in REASONS.items() if bits & bit}


def error_text(error: Exception) -> str:
    """Return the message of an NVML error, or its type if it has none."""
    return str(error).strip() or type(error).__name__

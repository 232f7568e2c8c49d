"""Records of the machine: its environment, its roofline, and how the GPU was used."""

from __future__ import annotations

from typing import Literal

import msgspec

from tuner.records.codec import Estimate, Record


class Environment(Record):
    """What a measurement depends on besides the configuration."""

    device: Literal["cuda", "cpu"]
    device_name: str
    compute_capability: str | None
    device_memory_bytes: int | None
    driver: str | None
    cpu_count: int
    cpp_compiler: str | None
    python: str
    platform: str
    libraries: dict[str, str | None]


class Roofline(Record):
    """What bounds a denoising step on a device (Williams, Waterman and Patterson, "Roofline", CACM 2009).

    `flop_per_step` is the arithmetic of one step for one image (a multiplication and an addition are two) and
    `weight_bytes` what the denoiser's weights take, both of the untouched pipeline. `flop_per_s` is the rate that a
    large product of each type reaches, `copy_bytes_per_s` what a large copy reads and writes.
    `unavailable_reasons` says what could not be found out, and why.
    """

    flop_per_step: float | None = None
    weight_bytes: int | None = None
    flop_per_s: dict[str, float] = msgspec.field(default_factory=dict)
    copy_bytes_per_s: float | None = None
    unavailable_reasons: tuple[str, ...] = ()


class LimitShare(Record):
    """How close a denoising step comes to a rate of the device, 0 to 1; `rate` is a type of number, or "copy"."""

    share: float
    rate: str


class GpuUse(Record):
    """The GPU while calls were timed, as NVML said just before and after each call.

    `unavailable_reasons` says what it did not say.

    Clocks, power and temperature are medians over the calls that count, `energy_j` is the mean of one such call.
    `events` counts in how many calls, discarded ones included, each reason for another clock was seen, `discarded` the
    calls that do not count, by their reason. The others are the other processes that compute on the GPU; where they
    are not shown, as in a container, there is still what they must hold of its memory, from one GiB on.
    """

    sm_clock_mhz: float | None = None
    sm_clock_max_mhz: float | None = None
    memory_clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    energy_j: Estimate | None = None
    events: dict[str, int] | None = None
    discarded: dict[str, int] = msgspec.field(default_factory=dict)
    other_processes: int | None = None
    other_memory_bytes: int | None = None
    unavailable_reasons: tuple[str, ...] = ()


class Memory(Record):
    """Peak memory. On a GPU what torch had allocated at most during the timed calls, or had reserved where CUDA graphs
    hide their allocations; on a CPU the largest resident set of the process so far, loading and compiling included."""

    peak_bytes: int
    reserved_bytes: int | None

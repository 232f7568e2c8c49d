"""Records of the machine: its environment, its roofline, and how the GPU was used."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tuner.records.codec import Bytes, Count, Estimate, NonNegative, PositiveCount, Record

Celsius = Annotated[float, msgspec.Meta(ge=-100, le=1000)]
Clock = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
Watts = Annotated[float, msgspec.Meta(ge=0, le=1e6)]


class Environment(Record, omit_defaults=True):
    """The hardware and software that a measurement depends on. One image may use up to `devices` of these devices."""

    device: Literal["cuda", "cpu"]
    device_name: str
    compute_capability: str | None
    device_memory_bytes: Bytes | None
    driver: str | None
    cpu_count: PositiveCount
    cpp_compiler: str | None
    python: str
    platform: str
    libraries: dict[str, str | None]
    devices: PositiveCount = 1


class ProbeState(Record):
    """The GPU while a rate was measured: SM clock, power, and whether the power cap lowered the clock.

    None where NVML did not answer.
    """

    sm_clock_mhz: Clock | None = None
    power_w: Watts | None = None
    is_capped: bool | None = None


class Roofline(Record):
    """The rates that bound a denoising step on a device (Williams, Waterman and Patterson, "Roofline", CACM 2009).

    `flop_per_step` is the arithmetic of one step for one image (a multiply-add counts as two) and `weight_bytes` the
    size of the denoiser's weights, both of the untouched pipeline. `flop_per_s` is the rate that a large matrix product
    of each type reaches, `copy_bytes_per_s` the rate at which a large copy reads and writes. `flop_by_class` divides
    `flop_per_step` as traces class kernels. `step_flop_per_s` is the rate of the products that a step has most of.
    On a GPU large products and copies run for seconds before they are timed; `states` has the GPU's state by rate.
    `attention_s` has the seconds that each attention kernel takes for the largest attention of a step.
    `unavailable_reasons` says what could not be measured, and why.
    """

    flop_per_step: NonNegative | None = None
    weight_bytes: Bytes | None = None
    flop_per_s: dict[str, NonNegative] = msgspec.field(default_factory=dict)
    copy_bytes_per_s: NonNegative | None = None
    flop_by_class: dict[str, NonNegative] = msgspec.field(default_factory=dict)
    step_flop_per_s: dict[str, NonNegative] = msgspec.field(default_factory=dict)
    attention_s: dict[str, NonNegative] = msgspec.field(default_factory=dict)
    states: dict[str, ProbeState] = msgspec.field(default_factory=dict)
    unavailable_reasons: tuple[str, ...] = ()


Bound = Literal["compute", "memory", "launches", "power"]


class LimitShare(Record):
    """How close a denoising step comes to a rate of the device. `rate` is a number type, or "copy".

    The share is 0 to 1, or a little above 1 if the step is faster than the probe that measured the rate. `bound` is
    what limits the step, if that is known, with the SM clock and the power while it was timed.
    """

    share: NonNegative
    rate: str
    bound: Bound | None = None
    sm_clock_mhz: Clock | None = None
    power_w: Watts | None = None


class GpuUse(Record):
    """The state of the GPU while calls were timed, as NVML reported it just before and after each call.

    Clocks, power and temperature are medians over the calls that count, `energy_j` is the mean of one such call.
    `calls` counts the calls, discarded ones included, and `events` those in which each reason for a lower clock was
    seen. `discarded` counts the calls that do not count, by reason. `other_processes` counts the other processes that
    compute on the GPU. If they are not visible, as in a container, `other_memory_bytes` still shows the memory that
    they must hold, from one GiB on. `unavailable_reasons` says what NVML did not report.
    """

    sm_clock_mhz: Clock | None = None
    sm_clock_max_mhz: Clock | None = None
    memory_clock_mhz: Clock | None = None
    power_w: Watts | None = None
    temperature_c: Celsius | None = None
    energy_j: Estimate | None = None
    calls: Count | None = None
    events: dict[str, Count] | None = None
    discarded: dict[str, Count] = msgspec.field(default_factory=dict)
    other_processes: Count | None = None
    other_memory_bytes: Bytes | None = None
    unavailable_reasons: tuple[str, ...] = ()


class Memory(Record):
    """Peak memory.

    On a GPU, the most that torch allocated during the timed calls, or reserved if CUDA graphs hide their allocations.
    On a CPU, the largest resident set of the process so far, loading and compiling included. `lent_bytes` of the peak
    are weights on the GPU that all workers share.
    """

    peak_bytes: Bytes
    reserved_bytes: Bytes | None
    lent_bytes: Bytes = 0

"""The GPU watched by a made-up NVML: every counter that may be missing, every brake, and who else is there."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tuner.hardware import nvml as nvml_module
from tuner.hardware import telemetry
from tuner.hardware.telemetry import GpuMonitor, Nvml, OwnUse, UnavailableMonitor, other_users_warning
from tuner.records.codec import decode, encode
from tuner.records.machine import GpuUse, ProbeState
from tuner.timing.measure import Clock, StoppingRule, Throttled, measure

IDLE, LOCKED, CAP, HW, SW_HEAT, HW_HEAT, BRAKE = 0x001, 0x002, 0x004, 0x008, 0x020, 0x040, 0x080
SOURCE = "".join(Path(str(module.__file__)).read_text() for module in (nvml_module, telemetry))
UUID, BUS_ID = "GPU-1234", "00000000:1B:00.0"


class NvmlError(Exception):
    pass


class FakeNvml:
    """One H200 that draws 500 J a call, and whatever a test changes about it. Any other function is an error: a
    setting cannot be changed by accident."""

    NVMLError = NvmlError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(self) -> None:
        self.reasons = 0
        self.sm_clock = 1900
        self.energy = count(10_000, 500_000)
        self.braked_ns = {269: 0, 270: 0, 271: 0}
        self.processes = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=30 << 30)]
        self.missing: set[str] = set()
        self.used = 600 << 20
        self.mig_mode = 0
        self.handle: object = None

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in self.missing:
            raise NvmlError("Not Supported")
        return super().__getattribute__(name)

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> object:
        self.handle = uuid
        return uuid

    def nvmlDeviceGetHandleByPciBusId(self, bus_id: str) -> object:
        self.handle = bus_id
        return bus_id

    def nvmlDeviceGetMigMode(self, handle: object) -> tuple[int, int]:
        return self.mig_mode, 0

    def nvmlDeviceGetMaxClockInfo(self, handle: object, kind: int) -> int:
        return 1980

    def nvmlDeviceGetClockInfo(self, handle: object, kind: int) -> int:
        return self.sm_clock if kind == self.NVML_CLOCK_SM else 3201

    def nvmlDeviceGetPowerUsage(self, handle: object) -> int:
        return 650_500

    def nvmlDeviceGetTemperature(self, handle: object, kind: int) -> int:
        return 61

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:
        return next(self.energy)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: object) -> int:
        return self.reasons

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: object) -> int:
        return self.reasons

    def nvmlDeviceGetFieldValues(self, handle: object, fields: list[int]) -> list[object]:
        return [
            SimpleNamespace(fieldId=field, nvmlReturn=0 if field in self.braked_ns else 3,
                            value=SimpleNamespace(ullVal=self.braked_ns.get(field, 0)))
            for field in fields
        ]  # fmt: skip

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> SimpleNamespace:
        return SimpleNamespace(used=self.used)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> list[SimpleNamespace]:
        return self.processes


@pytest.fixture
def nvml() -> FakeNvml:
    return FakeNvml()


@pytest.mark.parametrize(("reasons", "is_capped"), [(0x4, True), (0x0, False), (0x1, False)])
def test_the_state_of_a_probe_has_clock_power_and_cap(nvml: FakeNvml, reasons: int, is_capped: bool) -> None:
    nvml.sm_clock, nvml.reasons = 1650, reasons
    state = Nvml(UUID, BUS_ID, nvml).state()
    assert state == ProbeState(sm_clock_mhz=1650, power_w=650.5, is_capped=is_capped)


def test_the_reasons_of_a_probe_are_read_first(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    gpu: Any = Nvml(UUID, BUS_ID, nvml)
    for name in ("reasons", "sample"):
        read = getattr(gpu.gpu, name)
        monkeypatch.setattr(gpu.gpu, name, lambda *given, name=name, read=read: order.append(name) or read(*given))
    gpu.state()
    assert order == ["reasons", "sample"]


def test_the_state_is_unknown_where_nvml_is_silent(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object) -> None:
        raise NvmlError("Not Supported")

    for name in ("PowerUsage", "ClockInfo", "CurrentClocksEventReasons", "CurrentClocksThrottleReasons"):
        monkeypatch.setattr(FakeNvml, f"nvmlDeviceGet{name}", silent)
    assert Nvml(UUID, BUS_ID, nvml).state() == ProbeState()


def monitor_of(nvml: FakeNvml) -> GpuMonitor:
    found = Nvml(UUID, BUS_ID, nvml).monitor()
    assert isinstance(found, GpuMonitor)
    return found


def seen(nvml: FakeNvml, calls: int = 3) -> GpuUse:
    """The report after so many calls, as it comes out of a file."""
    monitor = monitor_of(nvml)
    for _ in range(calls):
        monitor.begin()
        monitor.end()
    return decode(encode(monitor.report()), GpuUse, "test")


def test_a_healthy_gpu(nvml: FakeNvml) -> None:
    use = seen(nvml)
    assert use.energy_j is not None
    assert use.energy_j.value == pytest.approx(500.0)
    assert (use.sm_clock_mhz, use.sm_clock_max_mhz, use.memory_clock_mhz) == (1900, 1980, 3201)
    assert (use.power_w, use.temperature_c) == (650.5, 61)
    assert (use.events, use.discarded, use.unavailable_reasons) == ({}, {}, ())
    assert (use.other_processes, use.other_memory_bytes) == (0, 0)


def test_the_gpu_is_found_by_its_uuid_else_by_its_place_on_the_bus(nvml: FakeNvml) -> None:
    monitor_of(nvml)
    assert nvml.handle == UUID
    nvml.missing = {"nvmlDeviceGetHandleByUUID"}
    monitor_of(nvml)
    assert nvml.handle == BUS_ID


def test_it_is_the_gpu_that_torch_uses(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    found = SimpleNamespace(uuid="1234", pci_domain_id=0, pci_bus_id=0x1B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert isinstance(Nvml.for_torch().monitor(), GpuMonitor)
    assert nvml.handle == UUID
    nvml.missing = {"nvmlDeviceGetHandleByUUID"}
    Nvml.for_torch()
    assert nvml.handle == BUS_ID
    del found.pci_bus_id
    assert isinstance(Nvml.for_torch().monitor(), UnavailableMonitor), "a torch that does not tell its place on the bus"


def test_without_nvml_every_call_counts_and_it_is_said_why(nvml: FakeNvml) -> None:
    nvml.missing = {"nvmlInit"}
    blind = Nvml(UUID, None, nvml).monitor()
    assert isinstance(blind, UnavailableMonitor)
    timing = measure(lambda: None, Clock(), batch=1, rule=StoppingRule(0.0), monitor=blind)
    assert timing.gpu == GpuUse(unavailable_reasons=("NVML: Not Supported",))


def test_a_gpu_that_nvml_does_not_find_is_no_obstacle(nvml: FakeNvml) -> None:
    nvml.missing = {"nvmlDeviceGetHandleByUUID", "nvmlDeviceGetHandleByPciBusId"}
    assert isinstance(Nvml(UUID, BUS_ID, nvml).monitor(), UnavailableMonitor)
    assert isinstance(Nvml(UUID, None, nvml).monitor(), UnavailableMonitor)


@pytest.mark.parametrize(
    ("function", "unavailable_reasons", "absent"),
    [
        ("nvmlDeviceGetTotalEnergyConsumption", "energy", {"energy_j"}),
        ("nvmlDeviceGetPowerUsage", "power", {"power_w"}),
        ("nvmlDeviceGetTemperature", "temperature", {"temperature_c"}),
        ("nvmlDeviceGetClockInfo", "SM clock", {"sm_clock_mhz", "memory_clock_mhz"}),
        ("nvmlDeviceGetMaxClockInfo", "maximum SM clock", {"sm_clock_max_mhz"}),
        ("nvmlDeviceGetFieldValues", "time under a brake", set()),
        ("nvmlDeviceGetComputeRunningProcesses", "processes", {"other_processes", "other_memory_bytes"}),
    ],
)
def test_each_counter_may_be_missing(nvml: FakeNvml, function: str, unavailable_reasons: str, absent: set[str]) -> None:
    nvml.missing = {function}
    use = seen(nvml)
    assert f"{unavailable_reasons}: Not Supported" in use.unavailable_reasons
    known = {"energy_j", "power_w", "temperature_c", "sm_clock_mhz", "memory_clock_mhz", "sm_clock_max_mhz",
             "other_processes", "other_memory_bytes", "events"}  # fmt: skip
    assert {name for name in known if getattr(use, name) is None} == absent
    assert use.discarded == {}


def test_every_counter_may_be_missing_at_once(nvml: FakeNvml) -> None:
    nvml.missing = {name for name in dir(FakeNvml) if name.startswith("nvmlDeviceGet") and "Handle" not in name}
    use = seen(nvml)
    assert len(use.unavailable_reasons) == 10
    assert use == GpuUse(unavailable_reasons=use.unavailable_reasons)


def test_an_older_driver_names_the_reasons_otherwise(nvml: FakeNvml) -> None:
    nvml.missing = {"nvmlDeviceGetCurrentClocksEventReasons"}
    nvml.reasons = CAP
    assert seen(nvml).events == {"SW power cap": 3}
    nvml.missing |= {"nvmlDeviceGetCurrentClocksThrottleReasons"}
    use = seen(nvml)
    assert use.events is None
    assert use.unavailable_reasons == ("clock event reasons: Not Supported",)


@pytest.mark.parametrize(
    ("reasons", "reason"),
    [
        (HW, "HW slowdown"),
        (SW_HEAT, "SW thermal slowdown"),
        (HW_HEAT | HW, "HW thermal slowdown"),
        (BRAKE | HW | CAP, "HW power brake"),
    ],
)
def test_a_brake_discards_the_sample_and_is_counted(nvml: FakeNvml, reasons: int, reason: str) -> None:
    monitor = monitor_of(nvml)
    for bits in (0, reasons, 0, 0):
        nvml.reasons = 0
        monitor.begin()
        nvml.reasons = bits
        assert monitor.end() == (reason if bits else None)
    use = monitor.report()
    assert use.discarded == {reason: 1}
    assert use.events is not None
    assert use.events[reason] == 1


def test_a_brake_before_the_call_counts_too(nvml: FakeNvml) -> None:
    monitor = monitor_of(nvml)
    nvml.reasons = SW_HEAT
    monitor.begin()
    nvml.reasons = 0
    assert monitor.end() == "SW thermal slowdown"


def test_a_brake_that_came_and_went_inside_the_call_is_seen_by_its_counter(nvml: FakeNvml) -> None:
    nvml.braked_ns = {269: 7_000, 271: 5}  # what was before does not matter, and one is not counted here
    monitor = monitor_of(nvml)
    monitor.begin()
    assert monitor.end() is None
    monitor.begin()
    nvml.braked_ns[271] += 1_000_000
    assert monitor.end() == "HW power brake"


@pytest.mark.parametrize("reasons", [CAP, IDLE, 0x002, 0x010, 0x100])
def test_other_reasons_are_counted_and_the_sample_kept(nvml: FakeNvml, reasons: int) -> None:
    nvml.reasons = reasons
    use = seen(nvml)
    assert use.discarded == {}
    assert use.events is not None
    assert list(use.events.values()) == [3]


@pytest.mark.parametrize("reasons", [0, 0x010])
def test_a_low_clock_that_no_cap_explains_discards_the_sample(nvml: FakeNvml, reasons: int) -> None:
    nvml.sm_clock = 1485  # 75 % of 1980
    nvml.reasons = reasons
    assert seen(nvml).discarded == {}
    nvml.sm_clock = 1484
    use = seen(nvml)
    assert use.discarded == {"SM clock under 75% of its maximum": 3}
    assert use.sm_clock_mhz is None
    assert use.energy_j is None


@pytest.mark.parametrize(("reasons", "name"), [(CAP, "SW power cap"), (LOCKED, "clocks set by a user")])
def test_a_capped_or_locked_gpu_can_be_measured_and_its_cap_is_counted(nvml: FakeNvml, reasons: int, name: str) -> None:
    nvml.sm_clock, nvml.reasons = 900, reasons
    use = seen(nvml)
    assert (use.discarded, use.events, use.sm_clock_mhz) == ({}, {name: 3}, 900)
    assert use.energy_j is not None


def test_a_brake_is_one_under_a_cap_too(nvml: FakeNvml) -> None:
    nvml.sm_clock, nvml.reasons = 900, CAP | HW_HEAT
    assert seen(nvml).discarded == {"HW thermal slowdown": 3}


def test_the_low_clock_of_a_gpu_that_is_idle_again_says_nothing(nvml: FakeNvml) -> None:
    nvml.sm_clock, nvml.reasons = 345, IDLE
    assert seen(nvml).discarded == {}


def test_a_gpu_under_a_brake_all_the_time_fails_the_timing_by_name(nvml: FakeNvml, monkeypatch: Any) -> None:
    monkeypatch.setattr("tuner.timing.measure.FIRST_PAUSE_S", 0.0)
    nvml.reasons = HW_HEAT
    with pytest.raises(Throttled, match="HW thermal slowdown"):
        measure(lambda: None, Clock(), batch=1, rule=StoppingRule(0.0), monitor=monitor_of(nvml))


def test_energy_is_that_of_the_calls_that_count(nvml: FakeNvml) -> None:
    nvml.energy = iter([0, 1_000, 2_000, 3_000, 90_000, 90_000, 91_500])  # type: ignore[assignment]
    monitor = monitor_of(nvml)  # looks once
    for bits in (0, HW, 0):
        monitor.begin()
        nvml.reasons = bits
        monitor.end()
        nvml.reasons = 0
    energy = monitor.report().energy_j
    assert energy is not None
    assert energy.value == pytest.approx((1.0 + 1.5) / 2)
    assert energy.low < 1.0 < 1.5 < energy.high, "two calls tell little"


def test_the_energy_of_a_stalled_call_does_not_count(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.energy = iter([0, *(each for joules in (1, 1, 90, *[1] * 9) for each in (0, joules * 1_000))])  # type: ignore[assignment]
    durations = iter([0.2, 0.2, 5.0, *[0.2] * 9])
    monkeypatch.setattr("tuner.timing.measure.time_call", lambda *_: (next(durations),) * 2)
    timing = measure(lambda: None, Clock(), batch=1, rule=StoppingRule(0.0), monitor=monitor_of(nvml))
    assert timing.stalled_calls == 1 and timing.gpu is not None and timing.gpu.energy_j is not None
    assert timing.gpu.energy_j.value == pytest.approx(1.0)
    assert timing.gpu.calls == timing.samples + 1


def test_an_energy_counter_that_stands_still_is_none(nvml: FakeNvml) -> None:
    nvml.energy = count(5, 0)
    use = seen(nvml)
    assert use.energy_j is None
    assert use.unavailable_reasons == ("energy: the counter stood still",)


def test_what_one_measurement_lacked_is_asked_for_again_in_the_next(nvml: FakeNvml) -> None:
    process = nvml.processes
    nvml.energy, nvml.processes = count(5, 0), []
    opened = Nvml(UUID, BUS_ID, nvml)
    for missing in (2, 0):
        monitor = opened.monitor()
        for _ in range(3):
            monitor.begin()
            monitor.end()
        use = monitor.report()
        assert len(use.unavailable_reasons) == missing
        assert (use.energy_j is None) == (use.other_processes is None) == bool(missing)
        nvml.energy, nvml.processes = count(10_000, 500_000), process


def test_others_on_the_gpu(nvml: FakeNvml) -> None:
    nvml.processes += [SimpleNamespace(pid=-1, usedGpuMemory=5 << 30), SimpleNamespace(pid=-2, usedGpuMemory=1 << 30)]
    use = seen(nvml)
    assert (use.other_processes, use.other_memory_bytes) == (2, 6 << 30)
    nvml.processes[1].usedGpuMemory = None
    use = seen(nvml)
    assert (use.other_processes, use.other_memory_bytes) == (2, None)


def test_processes_of_the_same_study_are_no_others(nvml: FakeNvml) -> None:
    with subprocess.Popen(["sleep", "60"]) as neighbour:
        nvml.processes += [SimpleNamespace(pid=neighbour.pid, usedGpuMemory=5 << 30)]
        nvml.processes += [SimpleNamespace(pid=-2, usedGpuMemory=1 << 30)]
        use = Nvml(UUID, BUS_ID, nvml, OwnUse(os.getpid(), is_shared=True)).monitor().report()
        neighbour.kill()
    assert (use.other_processes, use.other_memory_bytes, use.unavailable_reasons) == (1, 1 << 30, ())


def test_memory_of_a_hidden_neighbour_is_not_guessed(nvml: FakeNvml) -> None:
    nvml.processes, nvml.used = [], 40 << 30
    use = Nvml(UUID, BUS_ID, nvml, OwnUse(os.getpid(), is_shared=True)).monitor().report()
    assert use.other_memory_bytes is None
    assert use.unavailable_reasons == ("processes: none shown, not even this one", telemetry.SHARED)


def hidden(nvml: FakeNvml, taken: int, before: int, after: int, held: int) -> int | None:
    """What others hold as the report has it, where no process is shown: so many GiB in use before this process came,
    before and after the calls, and so many more that it came to hold itself meanwhile."""
    nvml.processes, nvml.used = [], taken << 30
    opened, ours = Nvml(UUID, BUS_ID, nvml), [20 << 30]
    nvml.used = before << 30
    monitor = opened.monitor(lambda: ours[0])
    nvml.used, ours[0] = after << 30, ours[0] + (held << 30)
    use = monitor.report()
    assert use.other_processes is None
    return None if use.other_memory_bytes is None else use.other_memory_bytes >> 30


def test_what_a_container_hides_still_takes_memory(nvml: FakeNvml) -> None:
    assert hidden(nvml, taken=0, before=20, after=20, held=0) is None
    assert hidden(nvml, taken=0, before=20, after=25, held=5) is None, "what this process takes is its own"
    assert hidden(nvml, taken=40, before=60, after=60, held=0) == 40, "it was there before"
    assert hidden(nvml, taken=0, before=20, after=50, held=5) == 25, "it came meanwhile"
    assert hidden(nvml, taken=2, before=22, after=20, held=0) == 2, "it went meanwhile"


def test_memory_that_is_not_told_is_not_guessed(nvml: FakeNvml) -> None:
    nvml.processes, nvml.missing = [], {"nvmlDeviceGetMemoryInfo"}
    use = seen(nvml)
    assert use.other_memory_bytes is None
    assert any(reason.startswith("memory in use: ") for reason in use.unavailable_reasons)


@pytest.mark.parametrize("others", [1, 2])
def test_processes_without_this_one_among_them_cannot_be_told_apart(nvml: FakeNvml, others: int) -> None:
    nvml.processes = [SimpleNamespace(pid=-1, usedGpuMemory=5 << 30)] * others
    use = seen(nvml)
    assert (use.other_processes, use.other_memory_bytes) == (None, None)
    assert use.unavailable_reasons == (
        f"processes: {others} shown, none with the number of this one: they cannot be told apart",
    )


def test_a_list_of_processes_without_this_one_shows_nothing(nvml: FakeNvml) -> None:
    nvml.processes = []
    use = seen(nvml)
    assert (use.other_processes, use.other_memory_bytes) == (None, None)
    assert use.unavailable_reasons == ("processes: none shown, not even this one",)


@pytest.mark.parametrize(("uuid", "mode"), [("MIG-1234", 0), (UUID, 1)])
def test_of_a_part_of_a_gpu_it_is_said_what_is_the_whole_ones(nvml: FakeNvml, uuid: str, mode: int) -> None:
    nvml.mig_mode = mode
    monitor = Nvml(uuid, BUS_ID, nvml).monitor()
    assert monitor.report().unavailable_reasons == (nvml_module.WHOLE_GPU,)


def test_a_gpu_that_cannot_be_divided_is_whole(nvml: FakeNvml) -> None:
    nvml.missing = {"nvmlDeviceGetMigMode"}
    assert seen(nvml).unavailable_reasons == ()


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (None, None),
        ((0, 600 << 20), None),
        ((1, 2_000_000_000), "another process uses this GPU (2.0 GB of its memory)"),
        ((3, 2_000_000_000), "3 other processes use this GPU (2.0 GB of its memory)"),
        ((0, 70_000_000_000), "somebody uses this GPU (70.0 GB of its memory)"),
    ],
)
def test_neighbours_are_reported_before_the_study(use: tuple[int, int] | None, said: str | None) -> None:
    warning = other_users_warning(use)
    assert (warning or "").startswith(said or "")
    assert (warning is None) == (said is None)


def test_nothing_in_the_module_can_change_a_setting() -> None:

    text = SOURCE
    assert "nvmlDeviceSet" not in text
    assert "nvmlDeviceReset" not in text


def test_the_real_nvml_has_what_is_asked_of_it() -> None:
    import re

    import pynvml

    for name in re.findall(r"(?<=\")nvml\w+(?=\")|NVML_[A-Z_]+(?=\)|,)", SOURCE):
        assert hasattr(pynvml, name), name
    for field in nvml_module.BRAKE_FIELDS:
        assert field in {value for name, value in vars(pynvml).items() if name.startswith("NVML_FI_DEV_CLOCKS_EVENT_")}
    bit = re.compile(r"nvmlClocks(Event|Throttle)Reason(?!All|None)\w+")
    assert {value for name, value in vars(pynvml).items() if bit.fullmatch(name)} == nvml_module.REASONS.keys()


@pytest.mark.gpu
def test_a_real_gpu_is_watched_while_it_works() -> None:
    import torch

    from tuner.timing.measure import CudaClock, warm_up

    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)

    def call() -> None:
        for _ in range(200):
            matrix @ matrix

    warm_up(call, CudaClock(), lambda: 0)
    monitor = Nvml.for_torch().monitor()
    assert isinstance(monitor, GpuMonitor)
    timing = measure(call, CudaClock(), batch=1, rule=StoppingRule(5.0), monitor=monitor)
    assert timing.device_s is not None
    assert timing.device_s.value == pytest.approx(timing.latency_s.value, rel=0.02)
    use = timing.gpu
    assert use is not None
    print(use)
    assert use.sm_clock_mhz is not None
    assert use.sm_clock_max_mhz is not None
    assert use.sm_clock_mhz <= use.sm_clock_max_mhz
    assert use.events is not None
    assert use.energy_j is not None
    assert use.power_w is not None
    assert use.energy_j.value / timing.latency_s.value == pytest.approx(use.power_w, rel=0.3)

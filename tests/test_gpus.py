"""The GPUs of a host, by a made-up NVML: which are chosen, which cores they get, and what is wrong with one."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace as replace_gpu
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from drawing import CPU
from drawing import GPU as CUDA
from msgspec.structs import replace

from tuner.commands import arguments, devices, resume
from tuner.errors import BadInput, TunerError, Unavailable
from tuner.execution.launch import ANYWHERE, Place
from tuner.hardware import environment, gpus
from tuner.hardware.gpus import Gpu, GpuModel, choose, share_cores, trouble_of
from tuner.records.codec import decode, encode
from tuner.records.outcome import Device

GIB = 1 << 30


def gpu(index: int, name: str = "H200", processes: int = 0, used: int = 0) -> Gpu:
    return Gpu(index, f"GPU-{index}", name, 140 * GIB, processes=processes, used_bytes=used)


HOST = [gpu(0), gpu(1, processes=2, used=20 * GIB), gpu(2), gpu(3, used=9 * GIB), gpu(4, name="T400")]


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [(None, [0, 2]), ("all", [0, 1, 2, 3]), ("1", [0]), ("2", [0, 2]), ("1,3", [1, 3]), ("4,", [4]), ("2,0,2", [2, 0])],
)
def test_gpus_are_chosen(asked: str | None, chosen: list[int]) -> None:
    assert [found.index for found in choose(asked, HOST).gpus] == chosen


def test_so_many_are_of_one_kind_and_a_study_that_goes_on_keeps_its_kind() -> None:
    mixed = [gpu(0), gpu(1, name="T400"), gpu(2), gpu(3, name="T400")]
    assert [found.index for found in choose("2", mixed).gpus] == [0, 2]
    with pytest.raises(Unavailable, match="2 of 4 visible GPUs are idle and of one kind"):
        choose("3", mixed)
    for asked in (None, "all", "2"):
        assert [found.index for found in choose(asked, mixed, mixed[1].kind).gpus] == [1, 3]
    assert [found.index for found in choose(None, mixed, GpuModel("A100", 40 * GIB)).gpus] == [0, 2]


def test_a_gpu_that_the_driver_cannot_describe_is_left_out(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    def get_memory(handle: str) -> Any:
        if handle == "GPU-0":
            raise NvmlError("Unknown Error")
        return SimpleNamespace(total=140 * GIB, used=0)

    monkeypatch.setattr(nvml, "nvmlDeviceGetMemoryInfo", get_memory)
    found = gpus.visible_gpus()
    for asked in (None, "all"):
        choice = choose(asked, found)
        assert [each.uuid for each in choice.gpus] == ["GPU-1"]
        assert choice.left_out == ("GPU 0 is left out: the driver cannot describe it (Unknown Error)",)
    assert choose(None, found[:1]).gpus == ()
    for asked in ("all", "0,", "2"):
        with pytest.raises(Unavailable, match=f"--gpus {asked}: "):
            choose(asked, found[:1])


def test_what_is_left_out_has_a_reason() -> None:
    said = "\n".join(choose(None, HOST).left_out)
    assert "GPU 1 is left out: 2 other processes use it (21.5 GB of its memory)" in said
    assert "GPU 3 is left out: somebody uses it (9.7 GB of its memory)" in said
    assert "GPU 4 is left out: GPU 4 (T400, 140 GiB) is of a different kind from GPU 0 (H200, 140 GiB)" in said


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ("5", Unavailable, "2 of 5 visible GPUs are idle"), ("0,9", Unavailable, "no GPU 9: 5 are visible"),
        ("0,4", BadInput, "GPU 4 (T400, 140 GiB) is of a different kind from GPU 0"),
    ],
)  # fmt: skip
def test_gpus_that_cannot_be_had_are_refused(asked: str, error: type[TunerError], words: str) -> None:
    with pytest.raises(error) as refusal:
        choose(asked, HOST)
    assert words in str(refusal.value)


def test_a_host_that_is_busy_everywhere_takes_the_first_gpu_as_one_with_a_single_gpu_does() -> None:
    assert [found.index for found in choose(None, [gpu(0, processes=1), gpu(1, processes=1)]).gpus] == [0]


@pytest.mark.parametrize("text", ["all", "1", "8", "0,2", "3,"])
def test_a_choice_of_gpus_is_parsed(text: str) -> None:
    assert arguments.gpus(text) == text


@pytest.mark.parametrize("text", ["0", "", "-1", "1;2", "0,,1", "some", "1 2", "²"])
def test_other_texts_are_no_choice_of_gpus(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no choice of GPUs"):
        arguments.gpus(text)


def test_gpus_that_are_asked_for_on_a_cpu_are_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.choose_gpus(None, "cpu").gpus == ()
    with pytest.raises(Unavailable, match="--gpus 2: a study on the CPU uses no GPUs"):
        devices.choose_gpus("2", "cpu")
    monkeypatch.setattr(environment, "torch_cuda_version", lambda: None)
    with pytest.raises(Unavailable, match=r"--gpus all: .*has no CUDA"):
        devices.choose_gpus("all", "auto")


def test_a_single_gpu_runs_as_it_always_did() -> None:
    assert devices.places(CUDA, choose(None, HOST[:1])) == {Device(name="cuda", uuid="GPU-0"): ANYWHERE}
    assert devices.places(CPU, gpus.Choice()) == {Device(name="cpu"): ANYWHERE}
    assert devices.places(CUDA, choose("2,", HOST)) == {Device(name="cuda", index=2, uuid="GPU-2"): Place("GPU-2")}


def test_a_gpu_is_the_same_alone_among_others_and_at_another_index() -> None:
    alone, among = devices.places(CUDA, choose(None, HOST[:1])), devices.places(CUDA, choose("0,2", HOST))
    moved = devices.places(CUDA, choose(None, [replace_gpu(HOST[0], index=1)]))
    assert {*alone} == {*moved} == {next(iter(among))} == {decode(encode(next(iter(moved))), Device, "outcome.json")}
    another = devices.places(CUDA, choose(None, [replace_gpu(HOST[0], uuid="GPU-7")]))
    assert {*another}.isdisjoint(alone)


def test_a_study_that_goes_on_keeps_its_gpus(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    study = optuna.create_study(storage=f"sqlite:///{database}")
    assert resume.recorded_gpus(tmp_path) is None
    for asked in ("2,", "2", None):
        study.set_user_attr("gpus", asked)
        assert resume.recorded_gpus(tmp_path) == asked
    study.set_user_attr("gpus", "; rm")
    with pytest.raises(BadInput, match=r"study\.db: gpus: .* is no choice of GPUs"):
        resume.recorded_gpus(tmp_path)


def test_gpus_for_one_image_are_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    four = [gpu(index) for index in range(4)]
    pairs = replace(CUDA, devices=2)
    found = devices.places(pairs, choose(None, four))
    assert [(device.index, device.uuid) for device in found] == [(0, "GPU-0"), (2, "GPU-2")]
    assert [place.gpu for place in found.values()] == ["GPU-0,GPU-1", "GPU-2,GPU-3"]
    assert [place.uuids for place in found.values()] == [["GPU-0", "GPU-1"], ["GPU-2", "GPU-3"]]
    assert list(devices.places(pairs, choose(None, four[:3])).values()) == [Place("GPU-0,GPU-1")]
    assert devices.left_over(choose(None, four[:3]), 2) == ["GPU 2 is left out: --devices 2 needs 2 for an image"]
    assert devices.left_over(choose(None, four), 2) == []
    with pytest.raises(Unavailable, match=r"--devices 2: it needs 2 GPUs; .*: 1"):
        devices.places(pairs, choose(None, four[:1]))


def test_each_of_several_gpus_gets_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(gpus, "_siblings", lambda core: {core})
    found = devices.places(CUDA, choose(None, HOST))
    assert [place.gpu for place in found.values()] == ["GPU-0", "GPU-2"]
    assert [set(place.cores) for place in found.values()] == [{0, 1, 2, 3}, {4, 5, 6, 7}]


@pytest.mark.parametrize(
    ("near", "usable", "parts"),
    [
        ([{0, 1, 8, 9}, {2, 3, 10, 11}], range(16), [{0, 1, 8, 9}, {2, 3, 10, 11}]),
        ([{0, 1, 8, 9}] * 2, range(16), [{0, 8}, {1, 9}]),
        ([{0, 1, 8, 9}] * 2, {0, 1}, [{0}, {1}]),
        ([set(), set()], {0, 1, 8, 9}, [{0, 8}, {1, 9}]),
        ([{4}, {5}], {0, 1}, [{0}, {1}]),
        ([{0}] * 3, {0}, [{0}, {0}, {0}]),
    ],
    ids=["each its node", "one node", "few are allowed", "no node is known", "none near is allowed", "fewer than GPUs"],
)
def test_cores_are_divided_by_node_and_whole(
    near: list[set[int]], usable: set[int], parts: list[set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "_siblings", lambda core: {core % 8, core % 8 + 8})
    assert [set(part) for part in share_cores(list(map(frozenset, near)), frozenset(usable))] == parts


# ---- what NVML says -------------------------------------------------------------------------------------------------


class NvmlError(Exception):
    pass


class NotSupported(NvmlError):
    pass


class FakeNvml:
    """Two GPUs; those in `gone` have fallen off the bus."""

    NVMLError, NVMLError_NotSupported = NvmlError, NotSupported

    def __init__(self) -> None:
        self.gone: set[str] = set()
        self.pids: list[int] = []

    def nvmlInit(self) -> None:
        pass

    def nvmlShutdown(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return self.nvmlDeviceGetHandleByUUID(f"GPU-{index}")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid not in {"GPU-0", "GPU-1"} - self.gone:
            raise NvmlError("GPU is lost")
        return uuid

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "H200"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return SimpleNamespace(total=140 * GIB, used=GIB // 2)

    def nvmlDeviceGetCpuAffinity(self, handle: str, words: int) -> list[int]:
        if handle == "GPU-0":
            raise NotSupported("no affinity")
        return [0b110] + [0] * (words - 1)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=GIB) for pid in self.pids]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return fake


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [(None, ["GPU-0", "GPU-1"]), ("1,0", ["GPU-1", "GPU-0"]), ("GPU-1", ["GPU-1"]), ("1,7,0", ["GPU-1"]), ("-1", [])],
)
def test_only_gpus_that_cuda_sees_are_visible(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, visible: str | None, uuids: list[str]
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = gpus.visible_gpus()
    assert [each.uuid for each in found] == uuids
    assert {each.uuid: each.near for each in found} == {u: frozenset({1, 2} if u == "GPU-1" else ()) for u in uuids}


THERE = {5, 7, 8}
"""The processes that exist here. The study's own is 5; others are of another namespace, or have just ended."""


@pytest.mark.parametrize(
    ("pids", "later", "reason"),
    [
        ([], [], None), ([5], [5], None), ([5, 7], [5, 7], "1 other process uses it"), ([7, 8], [7, 8], "2 other"),
        ([7], [7], "1 other process uses it"), ([5, 7], [5], None), ([5, 9], [5, 9], None), ([9, 10], [9, 10], None),
    ],
    ids=["nobody", "own", "a stranger", "strangers alone", "a stranger alone", "one that ends", "ended", "a container"],
)  # fmt: skip
def test_others_on_a_gpu_are_noticed(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, pids: list[int], later: list[int], reason: str | None
) -> None:
    nvml.pids = pids
    monkeypatch.setattr(gpus.psutil.Process, "children", lambda *_, **__: [SimpleNamespace(pid=5)])
    monkeypatch.setattr(gpus.psutil, "pid_exists", THERE.__contains__)
    monkeypatch.setattr(gpus.time, "sleep", lambda _: setattr(nvml, "pids", later))
    device = Device(name="cuda", index=1, uuid="GPU-1")
    found = trouble_of(device)
    assert (found is None) == (reason is None)
    assert found is None or (reason in found.reason and not found.is_lost)  # type: ignore[operator]
    assert trouble_of(device, may_be_shared=True) is None


def test_each_gpu_of_a_group_is_watched(nvml: FakeNvml) -> None:
    group, device = ["GPU-0", "GPU-1"], Device(name="cuda", uuid="GPU-0")
    assert trouble_of(device, group) is None
    nvml.gone = {"GPU-1"}
    lost = trouble_of(device, group, may_be_shared=True)
    assert lost is not None and lost.is_lost and "GPU is lost" in lost.reason
    assert trouble_of(device) is None and trouble_of(Device(name="cuda")) is None, "the only one is not watched"

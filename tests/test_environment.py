"""The fingerprint of the machine: what it says, and that it is read without importing torch."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

from tuner.errors import TunerError, Unavailable
from tuner.hardware import environment
from tuner.hardware.environment import LIBRARIES, detect
from tuner.records.codec import decode, encode
from tuner.records.machine import Environment


def test_a_cpu_has_no_gpu_fields() -> None:
    here = detect("cpu")
    assert here.device == "cpu"
    assert here.device_name
    assert here.cpu_count >= 1
    assert (here.compute_capability, here.device_memory_bytes, here.driver) == (None, None, None)


GPU = {"device_name": "a GPU", "compute_capability": "9.0", "device_memory_bytes": 2**34, "driver": "580"}


def test_a_cpu_that_is_asked_for_is_taken_although_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_first_gpu", lambda: GPU)
    assert detect("cpu").device == "cpu"
    assert detect("cpu").driver is None
    for device in ("auto", "cuda"):
        found = detect(device)
        assert found.device == "cuda"
        assert {name: getattr(found, name) for name in GPU} == GPU


def test_the_libraries_are_those_that_are_installed() -> None:
    here = detect("cpu")
    assert set(here.libraries) == set(LIBRARIES)
    for name in ("torch", "diffusers", "torchao"):
        assert here.libraries[name] == metadata.version(name)


def test_it_is_the_same_every_time_and_survives_a_file() -> None:
    assert detect("cpu") == detect("cpu")
    assert decode(encode(detect("cpu")), Environment, "here") == detect("cpu")


def test_cuda_that_cannot_be_had_is_unavailable_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_cuda, remedy in ((False, "install the CUDA build of torch"), (True, "CUDA_VISIBLE_DEVICES")):
        monkeypatch.setattr(environment, "_torch_has_cuda", lambda has_cuda=has_cuda: has_cuda)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # hides a GPU that this machine may have
        with pytest.raises(Unavailable, match=remedy) as refusal:
            detect("cuda")
        assert TunerError.exit_code == refusal.value.exit_code == 2
        assert "\n" not in str(refusal.value)
        assert detect("auto").device == "cpu"


def test_whether_torch_has_cuda_is_read_right_from_its_file() -> None:
    import torch

    assert environment._torch_has_cuda() is (torch.version.cuda is not None)


@pytest.mark.parametrize("visible", ["", "-1", "none", "GPU-00000000-0000-0000-0000-000000000000", "99", " "])
def test_a_hidden_gpu_is_no_error(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(environment, "_torch_has_cuda", lambda: True)
    assert detect("auto").device == "cpu"


def test_a_compiler_is_looked_for_where_cxx_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "sh")
    assert str(detect("cpu").cpp_compiler).endswith("/sh")
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert detect("cpu").cpp_compiler is None


def test_detecting_imports_no_torch() -> None:
    code = "import sys; from tuner.hardware.environment import detect; detect(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

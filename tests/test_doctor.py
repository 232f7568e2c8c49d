"""`tune doctor`: it agrees with the knobs and the packages' metadata, and changes nothing."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from tuner import cli
from tuner.commands import checks
from tuner.commands.doctor import abilities, additions, machine, packages
from tuner.commands.doctor.abilities import ABILITIES, WELL_KNOWN, list_abilities, well_known_architectures
from tuner.commands.doctor.additions import list_additions
from tuner.commands.doctor.diagnosis import diagnose
from tuner.commands.doctor.packages import PURPOSES, list_packages
from tuner.commands.doctor.records import Ability, Diagnosis
from tuner.commands.doctor.table import DiagnosisTable
from tuner.demo import SCORER_DIR
from tuner.hardware import environment
from tuner.hardware.environment import LIBRARIES, detect
from tuner.knobs import KNOBS
from tuner.records.codec import decode, encode
from tuner.records.machine import Environment
from tuner.report.console import make_console

CPU = detect("cpu")
INSTALLED = {"torch": "2.13.0+cu130", "triton": "3.7.0", "diffusers": "0.42.1", "transformers": "5.17.0",
             "accelerate": "1.15.0", "torchao": "0.18.0"}  # fmt: skip


def gpu(capability: str = "9.0", **changed: str | None) -> Environment:
    return Environment(
        device="cuda", device_name="NVIDIA H100", compute_capability=capability, device_memory_bytes=80 * 2**30,
        driver="580.159.04", cpu_count=16, cpp_compiler=None, python="3.11.7", platform="Linux",
        libraries=dict.fromkeys(LIBRARIES) | INSTALLED | changed,
    )  # fmt: skip


def ability(name: str, here: Environment) -> Ability:
    return next(each for each in list_abilities(here) if each.name == name)


def added(package: str, here: Environment) -> dict[str, tuple[object, ...]]:
    return next((dict(each.adds) for each in list_additions(here) if each.package == package), {})


def text(found: Diagnosis, width: int) -> str:
    stream = io.StringIO()
    make_console(stream, width).print(DiagnosisTable(found))
    return stream.getvalue()


@pytest.fixture(autouse=True)
def scorer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model that scores by default is at hand, except for tests that use `cache`."""
    if "cache" not in request.fixturenames:
        monkeypatch.setattr(checks, "check_clip", lambda name: None)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub" / "models--openai--clip-vit-base-patch16"


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "detect", lambda device: gpu())
    monkeypatch.setattr(environment, "torch_cuda_version", lambda: "13.0")
    monkeypatch.setattr(environment, "gpu_usage", lambda: (0, 2**29))


# ---- the tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "knob", "pattern"), ABILITIES)
def test_every_ability_is_one_of_the_catalogue(name: str, knob: str, pattern: str) -> None:
    assert any(re.fullmatch(pattern, str(value)) for value in KNOBS[knob].choices)


def test_every_package_is_explained() -> None:
    assert set(PURPOSES) >= set(LIBRARIES)


def test_diffusers_has_every_well_known_pipeline() -> None:
    assert [kind.pipeline_class for kind in well_known_architectures()] == list(WELL_KNOWN)


# ---- what works -----------------------------------------------------------------------------------------------------


def test_compiling_needs_a_compiler_on_a_cpu_and_triton_on_a_gpu() -> None:
    with_it = msgspec.structs.replace(CPU, cpp_compiler="/usr/bin/g++")
    assert ability("torch.compile", with_it).works == "yes"
    assert "/usr/bin/g++" in ability("torch.compile", with_it).why
    without = ability("torch.compile", msgspec.structs.replace(CPU, cpp_compiler=None))
    assert without.works == "no"
    assert "g++" in without.why
    assert ability("torch.compile", gpu()).works == "yes"
    assert "riton" in ability("torch.compile", gpu(triton=None)).why
    assert ability("torch.compile", gpu(triton=None)).works == "no"


@pytest.mark.parametrize(
    ("here", "works"), [(CPU, "partly"), (gpu("8.0"), "no"), (gpu("9.0"), "yes"), (gpu("7.5"), "no")]
)
def test_fp8_needs_the_hardware(here: Environment, works: str) -> None:
    found = ability("fp8 quantization", here)
    assert found.works in {works, "partly"} if works == "yes" else found.works == works
    if here.device == "cuda" and works == "no":
        assert "8.9" in found.why


def test_a_reason_about_the_machine_is_preferred_over_one_about_a_pipeline() -> None:
    for name in ("int8 quantization", "FlashAttention 2", "caches between steps"):
        assert "not installed" in ability(name, gpu(torchao=None)).why


# ---- what one more package would add --------------------------------------------------------------------------------


def test_torchao_would_add_int8_and_on_a_new_enough_gpu_fp8() -> None:
    hopper = added("torchao", gpu("9.0", torchao=None))["quantization.scheme"]
    assert {"int8-weight-only", "int8-dynamic", "fp8-weight-only", "fp8-dynamic-row"} <= set(hopper)
    ampere = added("torchao", gpu("8.0", torchao=None))["quantization.scheme"]
    assert "int8-weight-only" in ampere
    assert not [value for value in ampere if str(value).startswith("fp8")]
    assert not added("torchao", gpu())
    on_cpu = msgspec.structs.replace(CPU, libraries=CPU.libraries | {"torchao": None})
    assert "int8-weight-only" in added("torchao", on_cpu)["quantization.scheme"]


def test_triton_would_add_compiling_on_a_gpu_and_nothing_on_a_cpu() -> None:
    assert added("triton", gpu(triton=None))["compile.scope"] == ("regional", "full")
    assert not added("triton", CPU)


@pytest.mark.parametrize("here", [CPU, gpu(), gpu("12.0", torchao=None), gpu("7.5", triton=None)])
def test_additions_match_the_knobs_with_the_package_installed(here: Environment) -> None:
    promised = {each.package: each for each in list_additions(here)}
    for package in here.libraries:
        if here.libraries[package] is None:
            then = msgspec.structs.replace(here, libraries=here.libraries | {package: "9999"})
            gained = {
                (kind.pipeline_class, name, value)
                for kind in well_known_architectures()
                for name, knob in KNOBS.items()
                for value in knob.choices
                if knob.unavailable_reason(value, here, kind) and not knob.unavailable_reason(value, then, kind)
            }
            assert (package in promised) is bool(gained)
            if gained:
                adds = promised[package].adds
                assert {(name, value) for name, values in adds.items() for value in values} == {g[1:] for g in gained}
                named = promised[package].pipelines or tuple(WELL_KNOWN)
                assert set(named) == {g[0] for g in gained}


def test_the_install_command_comes_from_the_knob() -> None:
    for addition in list_additions(gpu(torchao=None)):
        assert addition.install.startswith("pip install ") or "http" in addition.install or " from " in addition.install
    torchao = next(each for each in list_additions(gpu(torchao=None)) if each.package == "torchao")
    assert torchao.install.startswith("pip install ")
    assert "torchao" in torchao.install


# ---- packages and problems ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "supported"),
    [("2.11.0", True), ("2.13.0+cpu", True), ("2.13.1+cu130", True), ("2.10.1", False), ("2.14.0", False),
     ("2.14.0.dev20261101", False), (None, False)],
)  # fmt: skip
def test_the_version_of_torch_is_checked(version: str | None, supported: bool) -> None:
    torch = next(each for each in list_packages(CPU.libraries | {"torch": version}) if each.name == "torch")
    assert torch.needed
    assert torch.supported_versions == ">=2.11,<2.14"
    assert torch.supported is supported


def test_optional_packages_may_be_missing() -> None:
    missing = [each for each in list_packages(CPU.libraries) if each.version is None]
    assert missing
    assert all(each.supported and not each.needed for each in missing)


def problems(monkeypatch: pytest.MonkeyPatch, here: Environment) -> str:
    monkeypatch.setattr(environment, "detect", lambda device: here)
    return "\n".join(diagnose().problems)


def test_a_package_out_of_range_is_a_problem_with_its_remedy(monkeypatch: pytest.MonkeyPatch, on_a_gpu: None) -> None:
    assert "pip install 'torch>=2.11,<2.14'" in problems(monkeypatch, gpu(torch="2.10.0"))
    assert "torchao is missing" in problems(monkeypatch, gpu(torchao=None))
    assert problems(monkeypatch, gpu()) == ""


def test_another_process_on_the_gpu_is_a_problem(monkeypatch: pytest.MonkeyPatch, on_a_gpu: None) -> None:
    monkeypatch.setattr(environment, "gpu_usage", lambda: (2, 2**33))
    assert "2 other processes" in problems(monkeypatch, gpu())
    assert "2 processes on it now, 8.0 GiB in use" in " ".join(text(diagnose(), 80).split())


def test_a_gpu_that_torch_cannot_use_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "driver_gpu_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(environment, "torch_cuda_version", lambda: None)
    assert "NVIDIA H100 is not used: the installed torch has no CUDA" in problems(monkeypatch, CPU)


@pytest.mark.parametrize("name", [None, "NVIDIA H100"])
def test_a_device_that_a_study_would_refuse_is_a_problem(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    monkeypatch.setattr(environment, "driver_gpu_name", lambda: name)
    monkeypatch.setattr(environment, "torch_cuda_version", lambda: None)
    refusals = [problem for problem in diagnose("cuda").problems if "no CUDA" in problem]
    assert refusals == ["--device cuda: the installed torch has no CUDA (install the CUDA build of torch)"]
    assert not [problem for problem in diagnose("auto").problems if "--device cuda" in problem]


def test_a_gpu_that_is_not_used_on_purpose_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "driver_gpu_name", lambda: "NVIDIA H100")
    found = diagnose("cpu")
    assert (found.machine.unused_gpu, found.machine.no_gpu) == (None, "not used, because of --device cpu")
    assert not any("H100" in problem for problem in found.problems)


def test_problems_do_not_depend_on_wording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "driver_gpu_name", lambda: None)
    monkeypatch.setattr(machine, "no_gpu_reason", lambda *_: "one is not used: it is only a word")
    assert diagnose().machine.unused_gpu is None
    assert "only a word" not in problems(monkeypatch, CPU)


def test_a_checkout_that_is_not_installed_is_a_problem(monkeypatch: pytest.MonkeyPatch, on_a_gpu: None) -> None:
    def missing(distribution: str) -> list[str]:
        raise packages.metadata.PackageNotFoundError(distribution)

    monkeypatch.setattr(packages.metadata, "requires", missing)
    packages.requirements.cache_clear()
    try:
        found = diagnose()
    finally:
        packages.requirements.cache_clear()
    (problem,) = found.problems
    assert problem.startswith("diffusion-tuner is not installed")
    assert not text(found, 80).startswith("Ready")


def test_a_full_disk_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    assert any("--out" in problem for problem in diagnose("cpu", tmp_path / "a" / "b").problems)


def test_a_scorer_that_is_nowhere_is_a_problem_as_for_a_run(
    cache: Path, tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *_, problem = diagnose("cpu").problems
    assert problem.startswith("openai/clip-vit-base-patch16: the CLIP model that scores the images is not in the local")
    for remedy in ("hf download openai/clip-vit-base-patch16", "--scorer FOLDER", "--quality ssim"):
        assert remedy in problem
    assert not text(diagnose(), 80).startswith("Ready")
    assert cli.main(["run", str(tiny_pipeline), "--device", "cpu", "--out", str(tmp_path / "traces")]) == 2
    assert capsys.readouterr().err == f"tune: {problem}\n"


def test_a_scorer_in_the_cache_is_no_problem_unless_it_is_torn(cache: Path, on_a_gpu: None) -> None:
    folder = cache / "snapshots" / ("0" * 40)
    shutil.copytree(SCORER_DIR, folder)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(folder.name)
    assert diagnose().problems == ()
    (folder / "model.safetensors").write_bytes(b"torn")
    (problem,) = diagnose().problems
    assert "model.safetensors: not a safetensors file" in problem


def test_without_the_hubs_client_nothing_is_said_of_the_scorer(
    cache: Path, on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert diagnose().problems == ()


def test_a_machine_without_diffusers_is_still_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (abilities, additions):
        monkeypatch.setattr(module, "well_known_architectures", lambda: ())
    monkeypatch.setattr(environment, "detect", lambda device: gpu(diffusers=None))
    found = diagnose()
    assert any("diffusers is missing" in problem for problem in found.problems)
    assert {each.works for each in found.abilities} == {"no"}
    assert text(found, 80)


# ---- for people and programs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
def test_the_text_has_every_fact_in_full(on_a_gpu: None, width: int) -> None:
    found = diagnose()
    shown = text(found, width)
    assert max(map(len, shown.splitlines())) <= width
    words = " ".join(shown.split())
    assert words.startswith("Ready: ")
    for fact in ("NVIDIA H100, 80.0 GiB of memory, compute capability 9.0, driver 580.159.04", "built for CUDA 13.0",
                 "no process on it now", "16 cores"):  # fmt: skip
        assert fact in words
    assert all(f"{each.name} {each.works}: {each.why}" in words for each in found.abilities)
    assert all(each.install in words and each.purpose in words for each in found.additions)
    assert all(name in words for name in LIBRARIES)


def test_it_survives_encoding(on_a_gpu: None) -> None:
    found = diagnose()
    assert decode(encode(found), Diagnosis, "here") == found


@pytest.mark.parametrize("arguments", [(), ("--device", "cpu"), ("--device", "cuda"), ("--json",)])
def test_the_command_always_answers_and_changes_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code = f"import sys; from tuner.cli import main; code = main(['doctor', *{arguments!r}]);"
    code += "assert not {'torch', 'diffusers'} & {*sys.modules}; sys.exit(code)"
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=hidden, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert list(tmp_path.iterdir()) == []
    if "--json" in arguments:
        assert decode(done.stdout, Diagnosis, "the command").machine.studies == str(tmp_path / "traces")

"""`tune package`: what is in the folder, when its compiled code is used, and the server that it brings."""

from __future__ import annotations

import base64
import importlib
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from exports import choosing, of_tiny, undefined, written

from tuner import cli
from tuner.hardware.environment import detect
from tuner.package.compiled import copy_compiled_code, find_compiled_code, fingerprint
from tuner.package.records import Fingerprint, Package
from tuner.package.texts import mount, requirements, texts
from tuner.package.writing import write_package
from tuner.records.codec import encode_pretty, read
from tuner.result.config import read_config
from tuner.study.compiled_code import own_cache

SETTINGS = {"attention.backend": "_native_math", "steps": 2, "batch": 2}
FILES = {
    ".dockerignore", "Dockerfile", "README.md", "best_config.json", "compiled_code.py", "generation.py",
    "requirements.txt", "server.py", "tuned.py",
}  # fmt: skip
SHIPPED = ("compiled_code", "generation", "server", "tuned")


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path, str], ModuleType]]:
    """Import a file of a package as its server does."""

    def imported(folder: Path, name: str) -> ModuleType:
        monkeypatch.syspath_prepend(str(folder))
        return importlib.import_module(name)

    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "unchanged")
    yield imported
    for name in SHIPPED:
        sys.modules.pop(name, None)


@pytest.fixture
def shipped(tmp_path: Path, importable: Callable[[Path, str], ModuleType]) -> ModuleType:
    """The module that decides about compiled code, of a package that has some of this machine."""
    package = Package(folder="", trial=5, files=())
    (tmp_path / "compiled_code.py").write_text(texts(choosing(SETTINGS), package)["compiled_code.py"])
    compiled = tmp_path / "made" / "inductor" / "ab"
    compiled.mkdir(parents=True)
    (compiled / "kernel.so").write_bytes(b"code")
    (tmp_path / "made" / "inductor" / "locks").mkdir()
    (tmp_path / "made" / "inductor" / "locks" / "x.lock").touch()
    (compiled / "kernel.so").chmod(0o666)
    assert copy_compiled_code(tmp_path / "made", tmp_path / "cache") == (1, 4)
    (tmp_path / "cache" / "fingerprint.json").write_bytes(encode_pretty(fingerprint(detect("cpu"))))
    return importable(tmp_path, "compiled_code")


def test_a_package_has_what_serving_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "here").mkdir()
    file = written(tmp_path / "here", choosing(SETTINGS))
    assert cli.main(["package", str(file), "--out", str(tmp_path / "out"), "--json"]) == 0
    package = json.loads(capsys.readouterr().out)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert set(package["files"]) == names == FILES
    assert "no study" in package["no_compiled_code_reason"]
    assert read_config(tmp_path / "out" / "best_config.json") == read_config(file)
    assert "uvicorn" in (tmp_path / "out" / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["here", "out"], "nothing is left behind"


@pytest.mark.parametrize("pipeline_class", ["FluxPipeline", "WanPipeline"])
def test_the_python_files_compile_and_bind_every_name(pipeline_class: str) -> None:
    best = choosing(SETTINGS)
    best = msgspec.structs.replace(best, model=msgspec.structs.replace(best.model, pipeline_class=pipeline_class))
    made = texts(best, Package(folder="", trial=5, files=()))
    for name in SHIPPED:
        assert undefined(made[f"{name}.py"]) <= {"__file__"}
        assert max(map(len, made[f"{name}.py"].splitlines())) <= 120
    assert ("output.frames" in made["generation.py"]) == (pipeline_class == "WanPipeline")
    assert ("imageio" in made["requirements.txt"]) == (pipeline_class == "WanPipeline")


def test_another_point_of_the_front_is_packaged(tmp_path: Path) -> None:
    best = choosing(SETTINGS)
    other = choosing({"vae.channels_last": True, "steps": 2}).chosen
    best = msgspec.structs.replace(best, front=(*best.front, msgspec.structs.replace(other, trial=9)))
    write_package(written(tmp_path, best), 9, tmp_path / "out")
    assert read_config(tmp_path / "out" / "best_config.json", 9).chosen.trial == 9
    assert "`trial=9`" in (tmp_path / "out" / "README.md").read_text()
    assert "channels_last" in (tmp_path / "out" / "tuned.py").read_text()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, choosing(SETTINGS))
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name in ("used", "link", "no/where", "empty/.."):
        assert cli.main(["package", str(file), "--out", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert "--out" in error and error.count("\n") == 1
    assert cli.main(["package", str(file), "--out", str(tmp_path / "empty")]) == 0
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["mine"]


@pytest.mark.parametrize("path", ["/a b/model", "/a`rm -rf x`/b", "/$(x)|'y'", "/plain"])
def test_a_folder_is_mounted_by_one_word_of_the_shell(path: str) -> None:
    best = choosing(SETTINGS)
    best = msgspec.structs.replace(best, model=msgspec.structs.replace(best.model, source=path))
    readme = texts(best, Package(folder="", trial=5, files=()))["README.md"]
    (line,) = (line for line in readme.splitlines() if "docker run" in line)
    assert f"{path}:/model:ro" in shlex.split(line)


def test_what_a_shell_cannot_show_is_left_to_the_reader() -> None:
    assert mount("/a\n# b") == "-e MODEL=/model -v MODEL_FOLDER:/model:ro"
    assert "HF_TOKEN" in mount("owner/name")


def test_versions_are_those_of_the_measurements() -> None:
    best = choosing(SETTINGS)
    libraries = {"torch": "2.13.0+cu130", "diffusers": "0.42.1+local", "transformers": "5; rm", "accelerate": None}
    best = msgspec.structs.replace(best, environment=msgspec.structs.replace(best.environment, libraries=libraries))
    lines = requirements(best).splitlines()
    assert lines[:5] == [
        "--extra-index-url https://download.pytorch.org/whl/cu130", "torch==2.13.0+cu130", "diffusers==0.42.1",
        "transformers", "accelerate",
    ]  # fmt: skip


# ---- compiled code --------------------------------------------------------------------------------------------------


def test_own_compiled_code_of_this_machine_is_used(shipped: ModuleType, tmp_path: Path) -> None:
    """Files that others could write in the study cannot be written by them in the package."""
    assert shipped.use(tmp_path / "cache") is None
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "cache" / "inductor")
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "cache" / "triton")


def edited(field: str, value: Any) -> Callable[[Path], None]:
    def edit(cache: Path) -> None:
        data = json.loads((cache / "fingerprint.json").read_text())
        (cache / "fingerprint.json").write_text(json.dumps({**data, field: value}))

    return edit


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (edited("device_name", "Abacus"), "device_name was Abacus"),
        (edited("python", "3.1"), "python was 3.1"),
        (edited("instructions", "other"), "instructions was other"),
        (edited("libraries", {"torch": "2.0"}), "libraries was"),
        (edited("libc", "99.1"), "which is older"),
        (edited("device", "cuda"), "was"),
        (edited("extra", 1), "extra was 1"),
        (lambda cache: (cache / "fingerprint.json").write_text("{"), "cache"),
        (lambda cache: (cache / "fingerprint.json").write_text("[]"), "fingerprint"),
        (lambda cache: (cache / "fingerprint.json").unlink(), "is not there"),
        (lambda cache: (cache / "inductor").chmod(0o777), "can be written by others"),
        (lambda cache: (cache / "inductor" / "ab" / "kernel.so").chmod(0o664), "can be written by others"),
        (lambda cache: (cache / "inductor" / "link").symlink_to("/etc"), "neither a file nor a folder"),
    ],
)
def test_other_compiled_code_is_not(
    shipped: ModuleType, tmp_path: Path, harm: Callable[[Path], Any], reason: str
) -> None:
    harm(tmp_path / "cache")
    assert reason in str(shipped.use(tmp_path / "cache"))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "unchanged"


def test_that_of_another_user_is_not(shipped: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert "not this user's own" in shipped.use(tmp_path / "cache")


def test_a_study_ships_the_compiled_code_that_it_made_here(study_copy: Path) -> None:
    """A copied study's is anyone's; a study that compiled nothing here has none."""
    best = read_config(study_copy / "best_config.json")
    found = [find_compiled_code(study_copy / "best_config.json", best)]
    cache = own_cache(study_copy)
    found += [find_compiled_code(study_copy / "best_config.json", best)]
    (cache / "triton").mkdir()
    (cache / "triton" / "kernel.cubin").touch()
    found += [find_compiled_code(study_copy / "best_config.json", best)]
    moved = msgspec.structs.replace(best, environment=msgspec.structs.replace(best.environment, device_name="Abacus"))
    found += [find_compiled_code(study_copy / "best_config.json", moved)]
    eager = msgspec.structs.replace(best, chosen=msgspec.structs.replace(best.chosen, compile_s=0.0))
    found += [find_compiled_code(study_copy / "best_config.json", eager)]
    assert [folder for folder, _ in found] == [None, None, cache, None, None]
    for (_, reason), words in zip(
        found, ("not made", "is empty", "", "another machine", "nothing is comp"), strict=True
    ):
        assert words in (reason or "")


def test_a_package_of_a_study_has_its_compiled_code(study_copy: Path, tmp_path: Path) -> None:
    (own_cache(study_copy) / "triton").mkdir()
    (study_copy / "cache" / "triton" / "kernel.cubin").write_bytes(b"code")
    package = write_package(study_copy / "best_config.json", None, tmp_path / "out")
    assert (package.compiled_files, package.compiled_bytes, package.no_compiled_code_reason) == (1, 4, None)
    recorded = read(tmp_path / "out" / "cache" / "fingerprint.json", Fingerprint)
    assert recorded == fingerprint(detect("cpu"))
    assert "1 file, " in (tmp_path / "out" / "README.md").read_text()


# ---- the server -----------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """The package of a tiny pipeline."""
    (tmp_path / "here").mkdir()
    write_package(written(tmp_path / "here", of_tiny(tiny_pipeline, SETTINGS)), None, tmp_path / "out")
    return tmp_path / "out"


def test_it_generates_after_one_warm_up(
    served: Path, importable: Callable[[Path, str], ModuleType], process_state: None
) -> None:
    """Fewer prompts than the batch give as many images; the same seed gives the same ones."""
    from PIL import Image

    generation = importable(served, "generation")
    generation.start()
    one, two = generation.generate(["a red circle"], 7), generation.generate(["a red circle", "a blue square"], 7)
    assert (len(one), len(two)) == (1, 2) and one[0] == two[0] != two[1]
    assert Image.open(io.BytesIO(base64.b64decode(one[0]))).size == (32, 32)
    health = generation.health()
    assert health["first_call_s"] > 0 and "is not there" in health["compiled_code"]


def test_what_compiles_nothing_says_so(
    tiny_pipeline: Path, tmp_path: Path, importable: Callable[[Path, str], ModuleType]
) -> None:
    best = of_tiny(tiny_pipeline, SETTINGS)
    eager = msgspec.structs.replace(best.chosen, compile_s=0.0)
    front = tuple(eager if point.trial == eager.trial else point for point in best.front)
    (tmp_path / "here").mkdir()
    file = written(tmp_path / "here", msgspec.structs.replace(best, chosen=eager, front=front))
    write_package(file, None, tmp_path / "out")
    told = "nothing is compiled in this configuration"
    assert undefined((tmp_path / "out" / "generation.py").read_text()) <= {"__file__"}
    assert importable(tmp_path / "out", "generation").health()["compiled_code"] == told
    assert told in (tmp_path / "out" / "README.md").read_text()


def test_the_server_answers_once_it_is_warm(
    served: Path, importable: Callable[[Path, str], ModuleType], process_state: None
) -> None:
    fastapi = pytest.importorskip("fastapi.testclient", reason="fastapi and httpx are not installed")
    with fastapi.TestClient(importable(served, "server").app) as client:
        assert client.get("/health").json()["status"] == "ok"
        answer = client.post("/generate", json={"prompts": ["a red circle"], "seed": 7})
        assert answer.json() == {"images": importable(served, "generation").generate(["a red circle"], 7)}
        more = {"prompts": ["a"], "steps": 4}
        for wrong in (
            {"prompts": []},
            {"prompts": [" "]},
            {"prompts": ["a"] * 3},
            {"prompts": ["a"], "seed": -1},
            {},
            more,
        ):
            assert client.post("/generate", json=wrong).status_code == 422

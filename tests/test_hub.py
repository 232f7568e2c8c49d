"""A hub id without a network: the local cache answers, or one line says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tuner import cli
from tuner.commands import checks, run
from tuner.demo import SCORER_DIR
from tuner.errors import BadInput
from tuner.model import hub, pipeline

COMMIT, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40
NAME = "owner/tiny"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def repository(cache: Path, tiny_pipeline: Path) -> Path:
    """The cached repository of a tiny pipeline: its branch main and a tag, both of one commit."""
    return keep(cache, tiny_pipeline)


def keep(cache: Path, folder: Path) -> Path:
    """Copy a pipeline into a cache, as the hub's client lays it out."""
    repository = cache / "models--owner--tiny"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    for ref in ("main", "v1.0"):
        (repository / "refs" / ref).write_text(COMMIT)
    return repository


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT])
def test_a_hub_id_is_found_in_the_cache_and_pinned_to_its_commit(repository: Path, revision: str | None) -> None:
    model, known = pipeline.resolve(NAME, revision, "demo")
    assert (model.source, model.revision, model.pipeline_class) == (NAME, COMMIT, "FluxPipeline")
    assert "transformer" in known.settings, "the components' settings are read from the snapshot"


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing cached": (shutil.rmtree, "is not there"),
    "no snapshot": (lambda r: shutil.rmtree(r / "snapshots" / COMMIT), "is not there"),
    "no branch": (lambda r: (r / "refs" / "main").unlink(), "is not there"),
    "a branch elsewhere": (lambda r: (r / "refs" / "main").write_text(OTHER), "is not there"),
    "a branch that leads out": (lambda r: (r / "refs" / "main").write_text("../.."), "is not there"),
    "a branch that is empty": (lambda r: (r / "refs" / "main").write_text(""), "is not there"),
    "a branch that is no text": (lambda r: (r / "refs" / "main").write_bytes(b"\xff\xfe\0"), "is not there"),
    "no index": (lambda r: (r / "snapshots" / COMMIT / "model_index.json").unlink(), "no model_index.json"),
    "no weights": (
        lambda r: [file.unlink() for file in (r / "snapshots" / COMMIT / "transformer").glob("*.safetensors")],
        "no safetensors weights of its transformer;",
    ),
    "a link to a blob that is gone": (
        lambda r: [
            (file.unlink(), file.symlink_to("../../../blobs/gone"))
            for file in (r / "snapshots" / COMMIT / "vae").glob("*.safetensors")
        ],
        "no safetensors weights of its vae;",
    ),
}


@pytest.mark.parametrize(("harm", "problem"), DAMAGES.values(), ids=DAMAGES)
def test_a_cache_that_does_not_have_it_all_is_named_with_the_remedy(
    repository: Path, harm: Callable[[Path], object], problem: str
) -> None:
    harm(repository)
    with pytest.raises(BadInput) as refusal:
        pipeline.resolve(NAME, None, "demo")
    message = str(refusal.value)
    assert message.startswith(f"{NAME}: ")
    assert problem in message
    assert f"hf download {NAME}" in message and "\n" not in message


@pytest.mark.parametrize("revision", ["v2.0", OTHER, "../main", "", "\0"])
def test_a_revision_that_is_not_cached_is_refused(repository: Path, revision: str) -> None:
    assert hub.cached(NAME, revision) is None or revision == ""
    if revision:
        with pytest.raises(BadInput, match="local cache"):
            pipeline.resolve(NAME, revision, "demo")


LOAD = """
import sys
from tuner.hardware.environment import detect
from tuner.model import pipeline

model, _ = pipeline.resolve(sys.argv[1], None, "demo")
pipe = pipeline.load(model, detect("cpu"), "float32")
print(type(pipe).__name__, model.revision)
"""


def test_it_is_loaded_from_the_cache_when_the_hub_does_not_answer(tiny_pipeline: Path, tmp_path: Path) -> None:
    keep(tmp_path / "hub", tiny_pipeline)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, NAME], capture_output=True, text=True, timeout=120, check=False,
        env={**environment, "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert done.stdout.split() == ["FluxPipeline", COMMIT], done.stderr


def test_a_scorer_that_is_nowhere_is_named_with_the_whole_remedy(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "--scorer", "owner/clip", "--out", str(tmp_path / "traces")]) == 2
    line = capsys.readouterr().err
    assert line.startswith("tune: owner/clip: the CLIP model that scores the images is not in the local cache")
    assert "point --scorer FOLDER to a local copy, or use --quality ssim, which needs none" in line
    assert not (tmp_path / "traces").exists()


@pytest.mark.parametrize("name", ["ssim", "ms_ssim"])
def test_a_metric_that_needs_no_scorer_does_not_ask_for_one(cache: Path, name: str) -> None:
    options = cli.make_parser().parse_args(["run", "--scorer", "owner/clip", "--quality", name])
    checks.check_models(run.make_request(options))


def test_a_scorer_in_the_cache_is_checked(cache: Path) -> None:
    folder = cache / "models--owner--clip" / "snapshots" / COMMIT
    shutil.copytree(SCORER_DIR, folder)
    (cache / "models--owner--clip" / "refs").mkdir()
    (cache / "models--owner--clip" / "refs" / "main").write_text(COMMIT)
    options = cli.make_parser().parse_args(["run", "--scorer", "owner/clip"])
    request = run.make_request(options)
    checks.check_models(request)
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(BadInput, match=r"model\.safetensors: not a safetensors file"):
        checks.check_models(request)

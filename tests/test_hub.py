"""A hub id without a network: the local cache answers, or one line says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tuner import cli
from tuner.commands import checks, run
from tuner.demo import PIPELINE_DIR, SCORER_DIR
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


class Hub:
    """A hub that has a pipeline's folder: its list of files, and the small ones of them on request."""

    def __init__(self, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub

        self.folder, self.cache, self.fetched = folder, cache, list[str]()
        self.from_cache = huggingface_hub.snapshot_download
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)

    def model_info(self, name: str, revision: str | None = None, timeout: float | None = None) -> SimpleNamespace:
        files = sorted(file.relative_to(self.folder).as_posix() for file in self.folder.rglob("*") if file.is_file())
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=file) for file in files])

    def download(self, name: str, *, allow_patterns: list[str], local_files_only: bool = False, **given: Any) -> str:
        if local_files_only:
            return self.from_cache(name, allow_patterns=allow_patterns, local_files_only=True, **given)
        snapshot = self.cache / "models--owner--tiny" / "snapshots" / COMMIT
        for file in (item.rfilename for item in self.model_info(name).siblings):
            if any(fnmatch(file, pattern) for pattern in allow_patterns):
                (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.folder / file, snapshot / file)
                self.fetched.append(file)
        return str(snapshot)


@pytest.fixture
def online(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub with the demo's pipeline, nothing of which is in the cache."""
    shutil.copytree(PIPELINE_DIR, tmp_path / "remote")
    return Hub(tmp_path / "remote", cache, monkeypatch)


def test_of_an_uncached_pipeline_small_files_are_fetched_and_checked(online: Hub) -> None:
    options = cli.make_parser().parse_args(["run", NAME, "--scorer", "demo"])
    request = run.make_request(options)
    checks.check_models(request)
    assert request.model.revision == COMMIT
    assert "vae/config.json" in online.fetched
    assert not [file for file in online.fetched if file.endswith((".safetensors", "tokenizer.json"))]
    config = online.cache / "models--owner--tiny" / "snapshots" / COMMIT / "vae" / "config.json"
    config.write_text(config.read_text().replace('"silu"', '"sillu"'))
    with pytest.raises(BadInput, match=r"vae/config\.json: act_fn: sillu is unknown; did you mean silu"):
        checks.check_models(request)


def rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / old).rename(folder / new)


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
REMOTE_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (remove("model_index.json"), "not a diffusers pipeline, the repository has no model_index.json"),
    "one file": (
        lambda folder: (rename(WEIGHTS, "flux.safetensors")(folder), remove("model_index.json")(folder)),
        "give the file: hf download owner/tiny flux.safetensors",
    ),
    "no component": (remove("vae"), "vae: AutoencoderKL: the repository has no files of it"),
    "no config": (remove("vae/config.json"), "vae: AutoencoderKL: the repository has no config.json of it"),
    "no scheduler": (remove("scheduler/scheduler_config.json"), "scheduler: .* has no files of it"),
    "no vocabulary": (remove("tokenizer/tokenizer.json"), "tokenizer: .* has no vocabulary of it"),
    "no weights": (remove(WEIGHTS), "transformer: .* has no weights of it"),
    "pickled": (rename(WEIGHTS, "transformer/diffusion_pytorch_model.bin"), "transformer: .* only pickled weights"),
    "two variants": (
        lambda folder: (
            shutil.copy(folder / WEIGHTS, folder / "transformer" / "diffusion_pytorch_model.fp16.safetensors"),
            rename(WEIGHTS, "transformer/diffusion_pytorch_model.bf16.safetensors")(folder),
        ),
        "it has only variants of its weights, bf16, fp16; choose one with --variant",
    ),
}


@pytest.mark.parametrize("name", REMOTE_DAMAGES)
def test_what_the_hubs_list_of_files_lacks_is_told_before_the_download(name: str, online: Hub) -> None:
    harm, expected = REMOTE_DAMAGES[name]
    harm(online.folder)
    with pytest.raises(BadInput, match=expected) as refusal:
        pipeline.resolve(NAME, None, "demo")
    assert str(refusal.value).startswith(f"{NAME}: ")
    assert "\n" not in str(refusal.value)


def test_the_only_variant_on_the_hub_is_taken(online: Hub) -> None:
    rename(WEIGHTS, "transformer/diffusion_pytorch_model.fp16.safetensors")(online.folder)
    (online.folder / "other").mkdir()
    (online.folder / "other" / "model.int8.safetensors").touch()
    assert pipeline.resolve(NAME, None, "demo")[0].variant == "fp16"
    with pytest.raises(BadInput, match=f"--variant bf16: {NAME} has fp16"):
        pipeline.resolve(NAME, None, "demo", variant="bf16")


def test_a_gated_repository_is_told_how_to_get(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    class GatedRepoError(Exception):
        """Named as the error of the hub's client."""

    def refuse(*_: Any, **__: Any) -> None:
        raise GatedRepoError("403 Client Error.\nAccess is restricted")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(BadInput, match=r"403 Client Error.*; accept its terms on its page, then run `hf auth login`"):
        pipeline.resolve(NAME, None, "demo")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing cached": (shutil.rmtree, "does not have it"),
    "no snapshot": (lambda r: shutil.rmtree(r / "snapshots" / COMMIT), "does not have it"),
    "no branch": (lambda r: (r / "refs" / "main").unlink(), "does not have it"),
    "a branch elsewhere": (lambda r: (r / "refs" / "main").write_text(OTHER), "does not have it"),
    "a branch that leads out": (lambda r: (r / "refs" / "main").write_text("../.."), "does not have it"),
    "a branch that is empty": (lambda r: (r / "refs" / "main").write_text(""), "does not have it"),
    "a branch that is no text": (lambda r: (r / "refs" / "main").write_bytes(b"\xff\xfe\0"), "does not have it"),
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
    remedy = "run `hf download owner/clip` where there is a network, point --scorer FOLDER to a local copy, or use "
    assert f"{remedy}--quality ssim, which needs none; the demo pipeline has a scorer of its own, --scorer demo" in line
    assert not (tmp_path / "traces").exists()


def test_the_bundled_scorer_is_no_remedy_for_another_pipeline(
    cache: Path, tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", str(tiny_pipeline), "--device", "cpu", "--out", str(tmp_path / "traces")]) == 2
    line = capsys.readouterr().err
    assert line.startswith("tune: openai/clip-vit-base-patch16: the CLIP model that scores the images is not in the")
    assert line.endswith("or use --quality ssim, which needs none\n") and "demo" not in line


def test_a_dry_run_needs_no_scorer_and_says_that_it_is_not_here(
    cache: Path, tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(tiny_pipeline), "--device", "cpu", "--dry-run", "--out", str(tmp_path / "traces")]
    assert cli.main(arguments) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "scorer: openai/clip-vit-base-patch16, which is not here yet and cannot be fetched now, so that a" in text
    assert "run `hf download openai/clip-vit-base-patch16` where there is a network" in text
    assert cli.main([*arguments, "--quality", "ssim"]) == 0
    assert "scorer:" not in capsys.readouterr().out
    assert not (tmp_path / "traces").exists()


def test_a_dry_run_says_of_a_scorer_on_the_hub_that_a_run_fetches_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = cli.make_parser().parse_args(["run", "--scorer", "owner/clip"])
    request = run.make_request(options)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: None)
    found = checks.scorer_text(request.model, request.quality)
    assert found == "owner/clip, which is not here yet: a run fetches it from the hub"
    plain = run.make_request(cli.make_parser().parse_args(["run"]))
    assert checks.scorer_text(plain.model, plain.quality) == "demo, which comes with the package"


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

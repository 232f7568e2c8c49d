"""Find a pipeline of the Hugging Face hub, pinned to its commit: on the hub, or in the cache without a network."""

from __future__ import annotations

import re
from pathlib import Path

from tuner.errors import BadInput, Unavailable

SETTINGS = ["model_index.json", "*/config.json", "*/scheduler_config.json"]
"""The files that describe a pipeline. Its weights are downloaded when it is loaded."""

ANSWER_S = 2.0
"""Seconds that the hub has to answer whether it has the scorer."""

COMMIT = re.compile(r"[0-9a-f]{40}")


def find(name: str, revision: str | None) -> tuple[Path, str, bool]:
    """Find the index of a pipeline, its commit, and whether it is only in the local cache.

    Raises BadInput if neither the hub nor the cache has it.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        commit = str(HfApi().model_info(name, revision=revision).sha)
        folder = Path(snapshot_download(name, revision=commit, allow_patterns=SETTINGS))
        return folder / "model_index.json", commit, False
    except Exception as error:  # of the network, the hub's answer or the file system, from several libraries
        unreachable = error
    kept = cached(name, revision)
    problem = "is not there" if kept is None else incomplete_reason(kept)
    if kept is None or problem:
        raise BadInput(_nowhere(name, unreachable, str(problem)))
    return kept / "model_index.json", kept.name, True


def cached(name: str, revision: str | None) -> Path | None:
    """Return the folder of a revision in the local cache, which its commit names; None if it is not there."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=SETTINGS, local_files_only=True))
    except Exception:  # not cached, or the cache is damaged
        return None
    return folder if COMMIT.fullmatch(folder.name) else None


def incomplete_reason(folder: Path) -> str | None:
    """Return which files a pipeline in the cache lacks, or None."""
    if not (folder / "model_index.json").is_file():
        return "has no model_index.json of it"
    models = sorted(file.parent for file in folder.glob("*/config.json"))
    missing = [model.name for model in models if not any(file.is_file() for file in model.glob("*.safetensors"))]
    return f"has no safetensors weights of its {', '.join(missing)}" if missing else None


def require(name: str, option: str) -> Path | None:
    """Return the folder of a model in the local cache, or None if the hub has it.

    Raises Unavailable, naming the option that replaces it, if it is on neither.
    """
    from huggingface_hub import HfApi

    kept = cached(name, None)
    if kept is not None and (kept / "config.json").is_file() and any(kept.glob("*.safetensors")):
        return kept
    try:
        HfApi().model_info(name, timeout=ANSWER_S)
    except Exception as error:  # of the network, the hub's answer or the file system, from several libraries
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Unavailable(
            f"{name}: the CLIP model that scores the images is not in the local cache, and the hub does not give it; "
            f"point {option} to a local copy, or use --quality ssim, which needs none ({reason[:200]})"
        ) from None
    return None


def is_reachable(name: str, revision: str | None) -> bool:
    """Return whether the hub answers for a model. diffusers looks into the cache for some failures of it only."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, revision=revision)
    except Exception:
        return False
    return True


def _nowhere(name: str, error: Exception, problem: str) -> str:
    from huggingface_hub import constants

    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return (
        f"{name}: not a folder here, it could not be read from the hub ({reason}), and the local cache "
        f"{constants.HF_HUB_CACHE} {problem}; run `hf download {name}` where there is a network, or name a folder"
    )

"""Find a pipeline of the Hugging Face hub, pinned to its commit: on the hub, or in the cache without a network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tuner.errors import BadInput, Unavailable

SETTINGS = [
    "model_index.json", "*/config.json", "*/scheduler_config.json", "*/tokenizer_config.json",
    "*/preprocessor_config.json", "*/special_tokens_map.json",
]  # fmt: skip
"""The small files that describe a pipeline. Its weights and vocabularies are downloaded when it is loaded."""

ANSWER_S = 2.0
"""Seconds that the hub has to answer where the local cache has the model too, and whether it has the scorer."""

SLOW_ANSWER_S = 10.0
"""Seconds that the hub has to answer where the cache has nothing."""

COMMIT = re.compile(r"[0-9a-f]{40}")
REMEDIES = {
    "GatedRepoError": "accept its terms on its page, then run `hf auth login`",
    "RepositoryNotFoundError": "check its name, or run `hf auth login` if it is private",
    "RevisionNotFoundError": "check the revision",
}
"""What to do about an error of the hub's client, by its class."""


class Repository(NamedTuple):
    """A pipeline's index file, its commit, and the files that the hub lists; None if only the cache was asked."""

    index_file: Path
    commit: str
    listed: tuple[str, ...] | None


def find(name: str, revision: str | None) -> Repository:
    """Find a pipeline on the hub and fetch its small files, or find it in the cache.

    Raises BadInput if neither has it.
    """
    from huggingface_hub import HfApi, snapshot_download

    kept = cached(name, revision)
    try:
        info = HfApi().model_info(name, revision=revision, timeout=ANSWER_S if kept else SLOW_ANSWER_S)
        folder = Path(snapshot_download(name, revision=str(info.sha), allow_patterns=SETTINGS))
        return Repository(folder / "model_index.json", str(info.sha), tuple(s.rfilename for s in info.siblings or ()))
    except Exception as error:  # of the network, the hub's answer or the file system, from several libraries
        unreachable = error
    problem = "does not have it" if kept is None else incomplete_reason(kept)
    if kept is None or problem:
        raise BadInput(_nowhere(name, unreachable, str(problem)))
    return Repository(kept / "model_index.json", kept.name, None)


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


def require(name: str, option: str, more: str = "") -> Path | None:
    """Return the folder of a model in the local cache, or None if the hub has it.

    Raises Unavailable, naming the option that replaces it, and `more` remedies, if it is on neither.
    """
    from huggingface_hub import HfApi

    kept = cached(name, None)
    if kept is not None and (kept / "config.json").is_file() and any(kept.glob("*.safetensors")):
        return kept
    try:
        HfApi().model_info(name, timeout=ANSWER_S)
    except Exception as error:  # of the network, the hub's answer or the file system, from several libraries
        raise Unavailable(
            f"{name}: the CLIP model that scores the images is not in the local cache, and the hub does not give it "
            f"({_reason(error)}); {_remedy(name, error)}, point {option} to a local copy, or use --quality ssim, which "
            f"needs none{more}"
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

    return (
        f"{name}: not a folder here, it could not be read from the hub ({_reason(error)}), and the local cache "
        f"{constants.HF_HUB_CACHE} {problem}; {_remedy(name, error)}, or name a folder"
    )


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _remedy(name: str, error: Exception) -> str:
    return REMEDIES.get(type(error).__name__, f"run `hf download {name}` where there is a network")

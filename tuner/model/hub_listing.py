"""Check by the list of its files that a pipeline of the hub can be loaded, before its weights are downloaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from tuner.errors import BadInput
from tuner.model import component_classes, vocabulary
from tuner.model.folder_check import PICKLED, ROOT_FILES, WITHOUT_WEIGHTS, config_name
from tuner.model.json_file import read_object


def require_index(name: str, listed: Iterable[str]) -> None:
    """Raise BadInput, with what to give instead, if a repository has no model_index.json."""
    files = sorted(listed)
    if "model_index.json" in files:
        return
    checkpoint = next((file for file in files if file.endswith((".safetensors", ".gguf")) and "/" not in file), None)
    instead = f"; download its checkpoint and give the file: hf download {name} {checkpoint}" if checkpoint else ""
    raise BadInput(f"{name}: not a diffusers pipeline, the repository has no model_index.json{instead}")


def files_by_component(index_file: Path, listed: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of the files in the folder of each component of an index."""
    found: dict[str, list[str]] = {name: [] for name, _ in _components(index_file)}
    for folder, _, file in (name.partition("/") for name in sorted(listed)):
        if folder in found and file and "/" not in file:
            found[folder].append(file)
    return found


def check_listing(name: str, index_file: Path, listed: Iterable[str]) -> None:
    """Check that a repository has what each component of its index is loaded from. Raises BadInput."""
    files = set(listed)
    found = files_by_component(index_file, files)
    for component, (_, class_name) in _components(index_file):
        if not found[component] and files & set(ROOT_FILES):
            continue  # diffusers then loads the component from the repository's own folder
        missing = _missing(class_name, found[component])
        if missing:
            raise BadInput(f"{name}: {component}: {class_name}: the repository has {missing}; give another revision")


def _components(index_file: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    return component_classes.components(index_file, read_object(index_file))


def _missing(class_name: str, files: list[str]) -> str | None:
    """Return what a component's folder of the repository lacks, or None."""
    config = config_name(class_name)
    is_plain = bool(WITHOUT_WEIGHTS.search(class_name))
    if not files:
        return "no files of it"
    if config not in files and (not is_plain or class_name.endswith("Scheduler")):
        return f"no {config} of it"
    if "Tokenizer" in class_name and not vocabulary.OF_BYTES.match(class_name):
        return None if _any(files, vocabulary.FILES) else "no vocabulary of it"
    if not is_plain and not _any(files, ["*.safetensors"]):
        is_pickled = _any(files, PICKLED)
        return "only pickled weights of it, which can run code and are not read" if is_pickled else "no weights of it"
    return None


def _any(files: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatch(file, pattern) for file in files for pattern in patterns)

"""What differs between the machine and model of a record and those of today."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from tuner.model import pipeline
from tuner.records.machine import Environment
from tuner.records.model import Architecture, Model
from tuner.result.config import package_version
from tuner.result.consistency import config_contradiction
from tuner.result.records import BestConfig
from tuner.search.request import Request
from tuner.verify.records import Change

MODEL = "model"
RECORD = "best_config.json"
WEIGHTS = (".safetensors", ".json", ".gguf")
LEFT_OUT = ("cpp_compiler", "platform")
"""Fields of the environment whose text changes often and says little."""


def changes(best: BestConfig, here: Environment, request: Request | None) -> list[Change]:
    """Return what is not as it was recorded: versions, driver, machine, and the model's configuration."""
    found = differing(software(best.tuner_version, best.environment), software(package_version(), here))
    settings = model_changes(best.model, request.space.architecture) if request else ()
    return [*found, *settings, *newer_files(best), *edits(best)]


def edits(best: BestConfig) -> Iterator[Change]:
    """Yield that figures of the file contradict one another, so that it is not as `tune run` wrote it."""
    reason = config_contradiction(best)
    if reason is not None:
        yield Change(name=RECORD, recorded="as tune run wrote it", now=f"edited: {reason}")


def may_be_another_model(found: Sequence[Change]) -> bool:
    """Return whether other images are the model's doing: its files changed, or nothing else did."""
    of_model = [change for change in found if change.name.startswith(MODEL)]
    return bool(of_model) or all(change.name == RECORD for change in found)


def newer_files(best: BestConfig) -> Iterator[Change]:
    """Yield that files of the model's folder were written after the record."""
    source, recorded_s = Path(best.model.source), datetime.fromisoformat(best.created_at).timestamp()
    if not source.is_absolute():
        return
    files = [source] if source.is_file() else [file for file in source.rglob("*") if file.suffix in WEIGHTS]
    newer = [file for file in files if file.stat().st_mtime > recorded_s]
    if newer:
        newest = max(newer, key=lambda file: file.stat().st_mtime)
        now = f"{len(newer)} of {len(files)} files are newer, such as {newest.relative_to(source.parent)}"
        yield Change(name=f"{MODEL} files", recorded=best.created_at, now=now)


def software(tuner_version: str, environment: Environment) -> dict[str, Any]:
    """Return the versions and the machine by name."""
    fields = msgspec.to_builtins(environment)
    libraries = fields.pop("libraries")
    known = {"diffusion-tuner": tuner_version, **fields, **libraries}
    return {name: value for name, value in known.items() if name not in LEFT_OUT}


def differing(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Return what differs between two mappings, by name."""
    names = [name for name in {**recorded, **now} if recorded.get(name) != now.get(name)]
    return [Change(name=name, recorded=str(recorded.get(name)), now=str(now.get(name))) for name in names]


def model_changes(model: Model, recorded: Architecture) -> Iterator[Change]:
    """Yield what the model's configuration files say now and did not when the study was made."""
    _, now = pipeline.resolve(model.source, model.revision, None, model.variant, model.base)
    yield from _differences(MODEL, msgspec.to_builtins(recorded), msgspec.to_builtins(now))


def _differences(name: str, recorded: Any, now: Any) -> Iterator[Change]:
    """Yield the leaves in which two trees of plain data differ."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        for key in {**recorded, **now}:
            yield from _differences(f"{name}.{key}", recorded.get(key), now.get(key))
    elif isinstance(recorded, list) and isinstance(now, list) and len(recorded) == len(now):
        for before, after in zip(recorded, now, strict=True):
            yield from _differences(name, before, after)
    elif recorded != now:
        yield Change(name=name, recorded=str(recorded), now=str(now))

"""What a study is about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from tuner.errors import BadInput
from tuner.files import StudyFolder
from tuner.records.codec import Record, Values, fingerprint
from tuner.records.machine import Environment
from tuner.records.model import Model
from tuner.records.quality import QualityPolicy
from tuner.records.text import shown
from tuner.records.versions import OldFile, read_versioned
from tuner.result.prices import Price
from tuner.space.candidates import SearchSpace

PARTS = {"model": "model", "environment": "machine or library", "space": "search space", "quality": "metric"}
"""What people call the fields of a request that make it another study."""


class Request(Record):
    """What a study is about. Two requests with the same fingerprint are the same study."""

    model: Model
    environment: Environment
    space: SearchSpace
    price: Price
    quality: QualityPolicy = QualityPolicy()
    format: Literal["diffusion-tuner-study/2"] = "diffusion-tuner-study/2"

    def fingerprint(self) -> str:
        """Hash what trials depend on."""
        return fingerprint(self._decisive())

    def difference(self, asked: Request) -> str | None:
        """Say what makes the request that is asked for another study than this one, or None."""
        if self.fingerprint() == asked.fingerprint():
            return None
        return first_difference(self._decisive(), asked._decisive()) or "space.workload differs"

    def _decisive(self) -> dict[str, Any]:
        """Return what trials depend on: not the price, which only scales costs, names, sources, what was left out."""
        recipes = tuple(msgspec.structs.replace(recipe, name="", source="") for recipe in self.space.recipes)
        space = msgspec.structs.replace(self.space, name="", left_out={}, recipes=recipes)
        fields: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(self, space=space))
        del fields["format"], fields["price"]
        if not self.environment.platform:  # of a cluster, whose nodes may differ in it
            del fields["environment"]["cpu_count"]
        return fields


def first_difference(recorded: Mapping[str, Any], asked: Mapping[str, Any], path: str = "") -> str | None:
    """Return the path of the first field that differs, with both values, or None."""
    for name in {**recorded, **asked}:
        then, now = recorded.get(name), asked.get(name)
        if then == now:
            continue
        if isinstance(then, dict) and isinstance(now, dict):
            return first_difference(then, now, f"{path}{name}.")
        there, here = _shown(then), _shown(now)
        values = f"is {there} there, {here} is asked for" if there != here else "differs"  # far into long lists
        return f"{path}{name} {values}"
    return None


def _shown(value: Any) -> str:
    return "none" if value is None else shown(str(list(value)) if isinstance(value, tuple) else value)


class _OldPolicy(msgspec.Struct):
    given: dict[str, str]


class _OldRequest(OldFile, kw_only=True):
    """A study.json whose fields have the names of version 0.1, which wrote no format."""

    quality: _OldPolicy


def read_request(file: Path) -> Request:
    """Read a study.json. Raises BadInput in one line if it is malformed or of an earlier version."""
    return read_versioned(file, Request, _OldRequest)


def read_same_request(paths: StudyFolder, asked: Request) -> Request | None:
    """Return the request of the study in a folder, None if there is none. Raises BadInput if it is another study."""
    recorded = read_request(paths.request) if paths.request.exists() else None
    if recorded is None and (_has_entries(paths.trials) or paths.repetitions.exists()):
        raise BadInput(f"{paths.root}: it has trials but no study.json, so it is no study; choose another --study")
    difference = recorded.difference(asked) if recorded is not None else None
    if difference is not None:
        part = PARTS[difference.partition(".")[0]]
        raise BadInput(
            f"{paths.request}: the study here has another {part}: {difference}; give its options to "
            "go on with it, or name another one with --study"
        )
    return recorded


def _has_entries(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


class Refusal(Record):
    """A candidate that was refused before it cost anything."""

    values: Values
    reason: str

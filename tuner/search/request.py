"""What a study is about."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from tuner.records.codec import Record, Values, fingerprint
from tuner.records.machine import Environment
from tuner.records.model import Model
from tuner.records.quality import QualityPolicy
from tuner.records.versions import OldFile, read_versioned
from tuner.result.prices import Price
from tuner.space.candidates import SearchSpace


class Request(Record):
    """What a study is about. Two requests with the same fingerprint are the same study."""

    model: Model
    environment: Environment
    space: SearchSpace
    price: Price
    quality: QualityPolicy = QualityPolicy()
    format: Literal["diffusion-tuner-study/2"] = "diffusion-tuner-study/2"

    def fingerprint(self) -> str:
        """Hash what trials depend on: not the price, which only scales costs, names, sources and what was left out."""
        recipes = tuple(msgspec.structs.replace(recipe, name="", source="") for recipe in self.space.recipes)
        space = msgspec.structs.replace(self.space, name="", left_out={}, recipes=recipes)
        fields = msgspec.to_builtins(msgspec.structs.replace(self, space=space))
        del fields["format"], fields["price"]
        if not self.environment.platform:  # of a cluster, whose nodes may differ in it
            del fields["environment"]["cpu_count"]
        return fingerprint(fields)


class _OldPolicy(msgspec.Struct):
    given: dict[str, str]


class _OldRequest(OldFile, kw_only=True):
    """A study.json whose fields have the names of version 0.1, which wrote no format."""

    quality: _OldPolicy


def read_request(file: Path) -> Request:
    """Read a study.json. Raises BadInput in one line if it is malformed or of an earlier version."""
    return read_versioned(file, Request, _OldRequest)


class Refusal(Record):
    """A candidate that was refused before it cost anything."""

    values: Values
    reason: str

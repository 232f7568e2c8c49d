"""The description of a caching method, for the table in tuner.knobs.cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture


@dataclass(frozen=True)
class CacheMethod:
    """A caching method.

    `enable` enables it on a pipeline and describes the change. `unavailable_reason` returns why it cannot work on this
    machine or with this pipeline, or None. `parameters` are the names of the knobs that it reads.

    `syncs_per_step` is the maximal count of numbers that it reads back from the GPU in a denoising step.
    `refused_scopes` holds the reason for each value of `compile.scope` that it cannot be combined with.
    """

    enable: Callable[[Any, Mapping[str, Value]], str]
    unavailable_reason: Callable[[Environment, Architecture], str | None]
    parameters: tuple[str, ...]
    syncs_per_step: float
    refused_scopes: Mapping[str, str]

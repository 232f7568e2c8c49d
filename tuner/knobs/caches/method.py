"""What a way to cache is, for the table in tuner.knobs.cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture


@dataclass(frozen=True)
class CacheMethod:
    """`enable` puts it on a pipeline and says what it did, `unavailable_reason` says why it cannot work here or on this
    pipeline; `parameters` are the knobs that it takes.

    `syncs_per_step` is how many numbers it reads back from the GPU in a denoising step at most. `refused_scopes` says
    why it cannot go together with a `compile.scope`.
    """

    enable: Callable[[Any, Mapping[str, Value]], str]
    unavailable_reason: Callable[[Environment, Architecture], str | None]
    parameters: tuple[str, ...]
    syncs_per_step: float
    refused_scopes: Mapping[str, str]

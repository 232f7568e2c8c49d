"""Find the argument of the pipeline's call that an error is about, and how to set it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from tuner.model import pipeline
from tuner.records.model import Workload

LENGTH = "sequence_length"
"""The end of the names of arguments that set how many tokens the text encoders return."""

TWO_SIZES = re.compile(r"(?<![\d.])(\d+)(?![\d.]).*?(?<![\d.])(\d+)(?![\d.])", re.DOTALL)
ORDINAL = re.compile(r"\b(?:dimension|dim|number|index) \d+")
"""A number that counts, and is no size."""

NO_WEIGHTS = re.compile(r"Could not find the necessary `safetensors` weights|no file named \S*\.safetensors\b")
ABOUT_SIZES = re.compile(r"\bsizes?\b|\bshapes?\b|\blength|must match|max_position", re.IGNORECASE)


def effective_arguments(pipe: Any, workload: Workload) -> dict[str, Any]:
    """Return the arguments of a workload's calls, with the pipeline's own defaults for the others."""
    parameters = inspect.signature(type(pipe).__call__).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return defaults | pipeline.call_arguments(workload, {}, 1)


def remedy(error: BaseException, arguments: Mapping[str, Any]) -> str | None:
    """Return the setting that may mend a call that failed, or None.

    Two sizes that do not match differ by what the sequence is too long, whether or not it is joined with another.
    """
    message = ORDINAL.sub("", str(error))
    return next(chain(_variant(message), _shorter(message, arguments), _named(message, arguments)), None)


def _variant(message: str) -> Iterator[str]:
    if NO_WEIGHTS.search(message):
        yield "--variant NAME, such as fp16, if the model has only variants of its weights"


def _shorter(message: str, arguments: Mapping[str, Any]) -> Iterator[str]:
    match = TWO_SIZES.search(message) if ABOUT_SIZES.search(message) else None
    if match is None:
        return
    sizes = sorted(map(int, match.groups()))
    for name, value in arguments.items():
        if name.endswith(LENGTH) and isinstance(value, int) and value <= sizes[1]:
            fitting = value - (sizes[1] - sizes[0])
            if 0 < fitting < value:
                yield f"--set {_field(name)}={fitting}"


def _named(message: str, arguments: Mapping[str, Any]) -> Iterator[str]:
    for name in arguments:
        if re.search(rf"`{name}`", message) and (name in pipeline.ARGUMENT_FIELDS or isinstance(arguments[name], int)):
            yield f"--set {_field(name)}=VALUE"


def _field(name: str) -> str:
    return f"workload.{name}" if name in pipeline.ARGUMENT_FIELDS else f"workload.arguments.{name}"

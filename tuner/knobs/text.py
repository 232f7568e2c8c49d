"""The number of text tokens that the denoiser attends to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from tuner.knobs.base import Knob, invalid_count_reason
from tuner.knobs.code import NOTHING, Code
from tuner.model.diffusers_source import class_source
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture

FIXED_LENGTH = 'padding="max_length"'
OWN_LENGTH = re.compile(r'padding=(True|False|"longest")')
PADDING_TAKEN_OFF = re.compile(r"\bprompt_embeds\[\w+\]\[\w*masks?\[\w+\]\]")


@cache
def encodes_unpadded(pipeline_class: str) -> bool:
    """Return whether text encoders get unpadded prompts, or prompts padded to the longest of the call only."""
    text = class_source("pipelines", pipeline_class)
    return FIXED_LENGTH not in text and bool(OWN_LENGTH.search(text))


@cache
def denoises_unpadded(pipeline_class: str) -> bool:
    """Return whether the denoiser gets prompts without padding: never padded, or cut after encoding."""
    text = class_source("pipelines", pipeline_class)
    return encodes_unpadded(pipeline_class) or bool(PADDING_TAKEN_OFF.search(text))


class SequenceLength(Knob):
    """The tokens that a prompt is padded or cut to (max_sequence_length); `workload` keeps the workload's own.

    If a denoiser masks its padding (Sana, PixArt), fewer tokens are less work for the same image, as long as the
    prompts fit.
    """

    name = "text.sequence_length"
    choices = ("workload", 512, 256, 128, 64)
    may_change_image = True
    uneven_steps = False
    changes_trajectory = False
    changes_noise = False
    other_arithmetic = True
    mixes_batch = False

    def invalid_reason(self, value: Value) -> str | None:
        if value == "workload" or invalid_count_reason(value) is None:
            return None
        return "must be workload, or a whole number of tokens of at least 1"

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value == "workload":
            return None
        name = architecture.pipeline_class
        if "max_sequence_length" not in architecture.arguments:
            return f"{name} takes no max_sequence_length"
        if denoises_unpadded(name):
            return f"{name} gives its denoiser a prompt's own tokens, with no padding to save"
        limit = re.search(r"max_sequence_length > (\d+)", class_source("pipelines", name))
        if limit and int(value) > int(limit[1]):
            return f"{name} takes at most {limit[1]} tokens"
        return None

    def call_arguments(self, values: Mapping[str, Value]) -> dict[str, Any]:
        length = values[self.name]
        return {} if length == "workload" else {"max_sequence_length": length}

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        return f"prompts of {values[self.name]} tokens"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return NOTHING

"""The denoiser's weights from a file of packed ones."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tuner.errors import Unavailable
from tuner.knobs.base import Knob, NoEffect, denoisers, invalid_choice_reason
from tuner.knobs.code import Code
from tuner.knobs.conditions import missing_package
from tuner.knobs.user_weights import unreadable_reason
from tuner.model.diffusers_source import class_source
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture

UNPACKED_ONLY: tuple[tuple[str, Value, str], ...] = (
    ("fuse_qkv", False, "packed weights cannot be fused"),
    ("lora.file", "none", "a LoRA cannot be fused into packed weights"),
    ("memory.layerwise_casting", False, "packed weights are stored in few bits already"),
    ("compile.backend", "inductor", "only inductor compiles what unpacks the weights"),
)
"""Knobs that need plain weights: name, baseline value, and why others cannot be combined with a .gguf file."""


class GgufFile(Knob):
    """The denoiser's weights from a .gguf file instead of the pipeline's own: `none`, or the file's absolute path."""

    name = "quantization.gguf_file"
    choices = ("none",)
    user_supplied = True
    may_change_image = True
    order = 1  # the file brings a new denoiser, which everything else is then applied to
    uneven_steps = False
    changes_trajectory = False
    changes_noise = False
    other_arithmetic = False
    mixes_batch = False

    def invalid_reason(self, value: Value) -> str | None:
        if not invalid_choice_reason(value, self.choices):
            return None
        is_path = isinstance(value, str) and value.endswith(".gguf") and os.path.isabs(value)  # noqa: PTH117
        return None if is_path else "must be none or the absolute path of a .gguf file"

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value == "none":
            return None
        if len(architecture.denoisers) > 1:
            return f"{architecture.pipeline_class} has two denoisers, and a file holds one"
        for denoiser in architecture.denoisers:
            if denoiser.class_name not in single_file_classes():
                return f"diffusers reads no single file of a {denoiser.class_name}"
        return invalid_gguf_reason(str(value)) or missing_package(environment, "gguf", "0.10")

    def is_active(self, values: Mapping[str, Value]) -> bool:
        return values.get("quantization.scheme", "none") == "none"

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if values.get(self.name, "none") == "none":
            return None
        reasons = (why for name, untouched, why in UNPACKED_ONLY if values.get(name, untouched) != untouched)
        return next(reasons, None)

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        file = str(values[self.name])
        problem = invalid_gguf_reason(file)
        if problem:
            raise Unavailable(problem)
        load_gguf(pipe, file)
        (new,) = denoisers(pipe)
        packed = sum(hasattr(parameter, "quant_type") for parameter in new.parameters())
        if not packed:
            raise NoEffect(f"{file} holds no quantized weights")
        return f"{packed} packed weights from {Path(file).name}"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return Code((f"load_gguf(pipe, {values[self.name]!r})",), carried=(load_gguf,), needs=("gguf",))


def load_gguf(pipe: Any, file: str) -> None:
    """Load the pipeline's denoiser anew, from a .gguf file."""
    from diffusers import GGUFQuantizationConfig

    (old,) = denoisers(pipe)
    dtype, device = old.dtype, old.device
    with tempfile.TemporaryDirectory() as folder:
        old.save_config(folder)  # without it diffusers guesses the configuration, and asks the Hub for it
        new = type(old).from_single_file(
            file, config=folder, dtype=dtype, local_files_only=True,
            quantization_config=GGUFQuantizationConfig(compute_dtype=dtype),
        )  # fmt: skip
    component = next(name for name, part in pipe.components.items() if part is old)
    setattr(pipe, component, new)
    del old  # one of the two on the GPU is enough
    new.to(device).eval()


def invalid_gguf_reason(file: str) -> str | None:
    """Return why a path is no readable GGUF file on this machine, or None."""
    problem = unreadable_reason(file)
    if problem:
        return problem
    try:
        with open(file, "rb") as opened:  # noqa: PTH123  (any string, of any length)
            return None if opened.read(4) == b"GGUF" else f"{file} is no GGUF file"
    except (OSError, ValueError) as error:
        return f"{file} cannot be read: {getattr(error, 'strerror', None) or error}"


@cache
def single_file_classes() -> frozenset[str]:
    """Return the classes that diffusers loads from single files, as its source lists them."""
    return frozenset(re.findall(r'^    "(\w+)": \{', class_source("loaders", "FromOriginalModelMixin"), re.MULTILINE))

"""The floating-point type of weights and activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.knobs.base import Knob, NoEffect
from tuner.record import Architecture, Environment, Value


class Dtype(Knob):
    """The number format of weights and activations; untouched: bfloat16 on a GPU, float32 on a CPU."""

    name = "precision.dtype"
    choices = ("float32", "bfloat16", "float16")
    image = True
    order = 0

    def baseline(self, environment: Environment) -> Value:
        return "bfloat16" if environment.device == "cuda" else "float32"

    def unavailable(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value == "float16" and environment.device == "cpu":
            return "CPUs compute float16 by converting it: slower than float32 and no more precise than bfloat16"
        if value == "bfloat16" and environment.device == "cuda" and float(environment.compute_capability or 0) < 8.0:
            return "bfloat16 needs compute capability 8.0"
        return None

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        import torch

        dtype = getattr(torch, str(values[self.name]))
        pipe.to(dtype)
        if pipe.dtype != dtype:
            raise NoEffect(f"the pipeline stayed {pipe.dtype}")
        return f"pipeline in {values[self.name]}"

"""Flags of torch's compiler, inductor. They act on what is compiled after them, for the whole process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tuner.knobs.base import Knob, NoEffect
from tuner.record import Architecture, Environment, Value


class InductorFlag(Knob):
    """A boolean of torch._inductor.config."""

    flag: ClassVar[str]
    order = 5

    def active(self, values: Mapping[str, Value]) -> bool:
        return values["compile.scope"] != "none"

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        from torch._inductor import config

        before = getattr(config, self.flag)
        if before == values[self.name]:
            raise NoEffect(f"torch._inductor.config.{self.flag} is {before} already")
        setattr(config, self.flag, values[self.name])
        return f"torch._inductor.config.{self.flag} = {values[self.name]}"


class EpilogueFusion(InductorFlag):
    """Whether pointwise work that follows a matrix product is fused into its kernel."""

    name = "inductor.epilogue_fusion"
    flag = "epilogue_fusion"
    choices = (True, False)


class CoordinateDescentTuning(InductorFlag):
    """Whether each Triton kernel's launch parameters are searched one at a time: longer compiles, faster kernels."""

    name = "inductor.coordinate_descent_tuning"
    flag = "coordinate_descent_tuning"
    choices = (False, True)

    def unavailable(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value and environment.device == "cpu":
            return "it tunes Triton kernels, and inductor writes C++ for a CPU"
        return None

    def conflict(self, values: Mapping[str, Value]) -> str | None:
        if values.get(self.name) and str(values.get("compile.mode")).startswith("max-autotune"):
            return "the max-autotune modes switch it on already"
        return None


class Freezing(InductorFlag):
    """Whether weights become constants of the graph, packed for the kernels that read them."""

    name = "inductor.freezing"
    flag = "freezing"
    choices = (False, True)

    def unavailable(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value and environment.device == "cuda":
            return "it packs weights for CPU kernels"
        return None

    def conflict(self, values: Mapping[str, Value]) -> str | None:
        if values.get(self.name) and values["compile.scope"] == "regional":
            return "constants differ from block to block, so each block would compile anew"
        return None

"""torch.compile of the denoiser: which part, and in which mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.knobs.base import Knob, NoEffect, denoisers
from tuner.record import Architecture, Environment, Value


class CompileScope(Knob):
    """`regional` compiles each repeated block by itself, `full` the whole denoiser in one graph.

    A regional block's `forward` is compiled in place rather than the module, so that hooks put on later (caches) run
    around the compiled region instead of breaking it.
    """

    name = "compile.scope"
    choices = ("none", "regional", "full")
    order = 40

    def unavailable(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value == "none":
            return None
        if environment.device == "cuda":
            return None if environment.libraries.get("triton") else "Triton is not installed (pip install triton)"
        return None if environment.cpp_compiler else "no C++ compiler on this machine (install g++ or clang)"

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        import torch

        mode = str(values.get("compile.mode", "default"))
        is_full = values[self.name] == "full"
        cached = values.get("cache.kind", "none") != "none"
        # fp8 tensors crash where a graph may break (as_strided); a cache's hooks break the whole denoiser's graph.
        is_fp8 = str(values.get("quantization.scheme")).startswith("fp8")
        options = {"mode": mode, "dynamic": False, "fullgraph": is_fp8 and not (cached and is_full)}
        done = []
        for denoiser in denoisers(pipe):
            name = type(denoiser).__name__
            if is_full:
                denoiser.compile(**options)
                if denoiser._compiled_call_impl is None:
                    raise NoEffect(f"{name} was not compiled")
                done.append(f"{name} compiled whole, mode {mode}")
                continue
            blocks = repeated_blocks(denoiser)
            if not blocks:
                raise NoEffect(f"{name} has no repeated blocks")
            for block in blocks:
                block.forward = torch.compile(block.forward, **options)
            done.append(f"{len(blocks)} blocks compiled, mode {mode}")
        return "; ".join(done)


def repeated_blocks(denoiser: Any) -> list[Any]:
    """The blocks that a denoiser's class names as repeated, or else the members of its lists of two or more modules
    of one class."""
    import torch

    named = set(getattr(denoiser, "_repeated_blocks", None) or ())
    if named:
        return [module for module in denoiser.modules() if type(module).__name__ in named]
    lists = (child for child in denoiser.children() if isinstance(child, torch.nn.ModuleList))
    return [block for blocks in lists if len(blocks) > 1 and len({type(b) for b in blocks}) == 1 for block in blocks]


class CompileMode(Knob):
    """torch.compile's `mode`."""

    name = "compile.mode"
    choices = ("default", "reduce-overhead", "max-autotune-no-cudagraphs")

    def unavailable(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value != "default" and environment.device == "cpu":
            return f"{value} works through CUDA graphs or Triton kernels, and this is a CPU"
        return None

    def active(self, values: Mapping[str, Value]) -> bool:
        return values["compile.scope"] != "none"

    def conflict(self, values: Mapping[str, Value]) -> str | None:
        if values.get(self.name) != "reduce-overhead":
            return None
        if values["compile.scope"] == "regional":
            return "CUDA graphs of single blocks overwrite each other's outputs (pytorch#152887)"
        if values.get("cache.kind", "none") != "none":
            return "a cache decides at each step what to run, a CUDA graph replays always the same"
        if values.get("quantization.scheme") == "fp8-dynamic-row":
            return "replays of fp8 rows hang or overwrite each other; per tensor works"
        return None

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        return f"mode {values[self.name]}"

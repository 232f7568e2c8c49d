"""torch.compile: which components are compiled, and in which mode."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from tuner.knobs.base import Knob, NoEffect, denoisers, for_each_denoiser
from tuner.knobs.code import NOTHING, Code, assign
from tuner.knobs.text import denoises_unpadded, encodes_unpadded
from tuner.knobs.timesteps import round_timesteps
from tuner.model.diffusers_source import class_source
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture

CUDA_GRAPH_MODES = ("reduce-overhead", "max-autotune")
AUTOTUNED_MODES = ("max-autotune-no-cudagraphs", "max-autotune")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


def missing_compiler(environment: Environment) -> str | None:
    """Return why nothing can be compiled on this machine, and the remedy, or None."""
    if environment.device == "cuda":
        return None if environment.libraries.get("triton") else "Triton is not installed (pip install triton)"
    return None if environment.cpp_compiler else "no C++ compiler on this machine (install g++ or clang)"


def compiles(values: Mapping[str, Value]) -> bool:
    """Return whether anything of a candidate is compiled, which the first call then does."""
    denoiser = values.get("compile.scope", "none") != "none"
    return denoiser or bool(values.get("compile.text_encoders")) or bool(values.get("compile.vae"))


def inductor_compiles(values: Mapping[str, Value]) -> bool:
    """Return whether inductor compiles any component of a candidate."""
    denoiser = values["compile.scope"] != "none" and values.get("compile.backend", "inductor") == "inductor"
    return denoiser or bool(values.get("compile.text_encoders")) or bool(values.get("compile.vae"))


def cuda_graph_conflict(values: Mapping[str, Value]) -> str | None:
    """Return why the denoiser of a candidate cannot be replayed from a CUDA graph, or None."""
    if values.get("cache.kind", "none") != "none":
        return "a cache decides at each step what to run, and a CUDA graph always replays the same"
    if values.get("quantization.scheme") == "fp8-dynamic-row":
        return "replays of fp8 rows hang or overwrite each other; per tensor works"
    if "sage" in str(values.get("attention.backend")):
        return "SageAttention's kernels do not support CUDA graphs"
    if values.get("memory.group_offload"):
        return "a CUDA graph replays on fixed addresses, and offloaded weights move"
    return None


def compile_options(values: Mapping[str, Value]) -> dict[str, Any]:
    """Return the arguments of torch.compile for the denoiser."""
    cached = values.get("cache.kind", "none") != "none"
    # fp8 tensors crash where a graph may break (as_strided); a cache's hooks break the whole denoiser's graph.
    is_fp8 = str(values.get("quantization.scheme")).startswith("fp8")
    options: dict[str, Any] = {
        "dynamic": bool(values.get("compile.dynamic", False)),
        "fullgraph": is_fp8 and not (cached and values["compile.scope"] == "full"),
    }
    if values.get("compile.backend", "inductor") == "tensorrt":
        # TensorRT's defaults choose the types themselves and silently run uncompiled what cannot be built.
        settings = {"use_explicit_typing": True, "pass_through_build_failures": True}
        return options | {"backend": "tensorrt", "options": settings}
    return options | {"mode": str(values.get("compile.mode", "default"))}


def clone_outputs(call: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a call so that it returns copies of its tensors, which the next replay of a CUDA graph would overwrite."""
    import torch
    from torch.utils._pytree import tree_map_only

    def cloned(*arguments: Any, **named: Any) -> Any:
        return tree_map_only(torch.Tensor, torch.clone, call(*arguments, **named))

    return cloned


@contextmanager
def compiled_blocks(pipe: Any) -> Iterator[None]:
    """Compile the denoiser's repeated blocks with inductor while the context lasts.

    Between operators the compiled code rounds as eager code does. Raises NoEffect when there are no such blocks.
    """
    import torch
    from torch._inductor import config

    blocks = [block for denoiser in denoisers(pipe) for block in repeated_blocks(denoiser)]
    if not blocks:
        raise NoEffect("the denoiser has no repeated blocks")
    with config.patch(emulate_precision_casts=True), ExitStack() as stack:
        for block in blocks:
            own = vars(block).get("forward")
            stack.callback(*(delattr, block, "forward") if own is None else (setattr, block, "forward", own))
            block.forward = torch.compile(block.forward, dynamic=False)
        yield


class CompileScope(Knob):
    """How much of the denoiser is compiled at once: `regional` each repeated block by itself, `full` all of it.

    With `full`, timesteps are rounded as in eager code, see `tuner.knobs.timesteps`.

    A regional block's `forward` is compiled in place rather than the module. Hooks that are added later (caches) then
    run around the compiled region instead of breaking it.
    """

    name = "compile.scope"
    choices = ("none", "regional", "full")
    order = 40

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        return None if value == "none" else missing_compiler(environment)

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if values.get(self.name, "none") == "none" or values.get("compile.dynamic"):
            return None
        if denoises_unpadded(architecture.pipeline_class):
            # After the eighth length dynamo stops compiling and runs the denoiser eagerly.
            return (
                "prompts are not padded, so each length would be recompiled; compile.dynamic=true compiles once for all"
            )
        return None

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        import torch

        options = compile_options(values)
        if options.get("backend") == "tensorrt":
            import torch_tensorrt  # type: ignore[import-not-found]  # noqa: F401  (registers the backend)
        options_text = ", ".join(f"{name} {options[name]}" for name in ("backend", "mode") if name in options)
        done = []
        for denoiser in denoisers(pipe):
            name = type(denoiser).__name__
            if values[self.name] == "full":
                if options.get("backend") != "tensorrt":
                    round_timesteps(denoiser)
                denoiser.compile(**options)
                if denoiser._compiled_call_impl is None:
                    raise NoEffect(f"{name} was not compiled")
                if options.get("mode") in CUDA_GRAPH_MODES:
                    denoiser._compiled_call_impl = clone_outputs(denoiser._compiled_call_impl)
                done.append(f"{name} compiled whole, {options_text}")
                continue
            blocks = repeated_blocks(denoiser)
            if not blocks:
                raise NoEffect(f"{name} has no repeated blocks")
            for block in blocks:
                block.forward = torch.compile(block.forward, **options)
            done.append(f"{len(blocks)} blocks compiled, {options_text}")
        return "; ".join(done)

    def code(self, values: Mapping[str, Value]) -> Code | None:
        options = compile_options(values)
        is_tensorrt = options.get("backend") == "tensorrt"
        imports, needs = ("import torch_tensorrt  # noqa: F401",) * is_tensorrt, ("torch-tensorrt",) * is_tensorrt
        if values[self.name] == "full":
            is_replayed = options.get("mode") in CUDA_GRAPH_MODES
            rounded = () if is_tensorrt else (round_timesteps,)
            lines = [*assign("options", options), *["round_timesteps(denoiser)"] * len(rounded)]
            lines += ["denoiser.compile(**options)"]
            lines += ["denoiser._compiled_call_impl = clone_outputs(denoiser._compiled_call_impl)"] * is_replayed
            carried = (*rounded, *(clone_outputs,) * is_replayed)
            return for_each_denoiser(*lines, imports=imports, needs=needs, carried=carried)
        lines = [*assign("options", options), "for block in repeated_blocks(denoiser):"]
        lines += ["    block.forward = torch.compile(block.forward, **options)"]
        return for_each_denoiser(*lines, imports=imports, needs=needs, carried=(repeated_blocks,))


def repeated_blocks(denoiser: Any) -> list[Any]:
    """Return the blocks that a denoiser's class names as repeated.

    If it names none, these are the members of its lists of two or more modules of one class.
    """
    import torch

    named = set(getattr(denoiser, "_repeated_blocks", None) or ())
    if named:
        return [module for module in denoiser.modules() if type(module).__name__ in named]
    lists = (child for child in denoiser.children() if isinstance(child, torch.nn.ModuleList))
    return [block for blocks in lists if len(blocks) > 1 and len({type(b) for b in blocks}) == 1 for block in blocks]


class DenoiserCompileKnob(Knob):
    """A knob of how the denoiser is compiled. Its `apply` only describes: `CompileScope` reads the value."""

    def is_active(self, values: Mapping[str, Value]) -> bool:
        return values["compile.scope"] != "none"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return NOTHING


class CompileMode(DenoiserCompileKnob):
    """What inductor adds: CUDA graphs (reduce-overhead), minutes of autotuning matrix products, or both.

    `max-autotune` is both, `max-autotune-no-cudagraphs` the autotuning alone.
    """

    name = "compile.mode"
    choices = ("default", "reduce-overhead", "max-autotune-no-cudagraphs", "max-autotune")

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value != "default" and environment.device == "cpu":
            return f"{value} works through CUDA graphs or Triton kernels, and this is a CPU"
        return None

    def is_active(self, values: Mapping[str, Value]) -> bool:
        return super().is_active(values) and values.get("compile.backend", "inductor") == "inductor"

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if values.get(self.name) not in CUDA_GRAPH_MODES:
            return None
        if values["compile.scope"] == "regional":
            return "CUDA graphs of single blocks overwrite each other's outputs (pytorch#152887)"
        return cuda_graph_conflict(values)

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        return f"mode {values[self.name]}"


class CompileDynamic(DenoiserCompileKnob):
    """Whether the denoiser is compiled once for any batch and prompt length. The code is slower."""

    name = "compile.dynamic"
    choices = (False, True)

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        return "compiled for any size"


class CompiledComponent(Knob):
    """A component besides the denoiser that torch.compile compiles, in its default mode."""

    choices = (False, True)
    order = 40

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        return (self.missing_reason(architecture) or missing_compiler(environment)) if value else None

    def missing_reason(self, architecture: Architecture) -> str | None:
        """Return why this component of a pipeline cannot be compiled, or None."""
        raise NotImplementedError


class CompileTextEncoders(CompiledComponent):
    """Whether the text encoders are compiled as well. They run once per call, before the first step."""

    name = "compile.text_encoders"

    def missing_reason(self, architecture: Architecture) -> str | None:
        name = architecture.pipeline_class
        if not any(component in architecture.components for component in TEXT_ENCODERS):
            return f"{name} has no text encoder"
        if not re.search(r"\btext_encoder(_\d)?\(", class_source("pipelines", name)):
            return f"{name} calls no text encoder as a whole, only parts of it"
        if encodes_unpadded(name):
            return f"{name} does not pad its prompts, so each length would be recompiled"
        return None

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if values.get(self.name) and values.get("memory.group_offload"):
            return "offloading copies weights between the layers, which breaks their graphs"
        return None

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        encoders = text_encoders(pipe)
        if not encoders:
            raise NoEffect("the pipeline has no text encoder")
        for encoder in encoders:
            encoder.compile(dynamic=False)
            if encoder._compiled_call_impl is None:
                raise NoEffect(f"{type(encoder).__name__} was not compiled")
        return f"{', '.join(type(encoder).__name__ for encoder in encoders)} compiled"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        lines = ("for encoder in text_encoders(pipe):", "    encoder.compile(dynamic=False)")
        return Code(lines, carried=(text_encoders,))


def text_encoders(pipe: Any) -> list[Any]:
    """Return the text encoders of a pipeline."""
    return [encoder for name in TEXT_ENCODERS if (encoder := getattr(pipe, name, None)) is not None]


class CompileVae(CompiledComponent):
    """Whether the VAE's decoding is compiled as well. It runs once per call, after the last step."""

    name = "compile.vae"

    def missing_reason(self, architecture: Architecture) -> str | None:
        name = architecture.pipeline_class
        if "vae" not in architecture.components:
            return f"{name} has no VAE"
        return None if "vae.decode(" in class_source("pipelines", name) else f"{name} never calls vae.decode"

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if values.get(self.name) and values.get("vae.tiling"):
            return "tiles differ in size, so each size would be recompiled"
        return None

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        import torch

        vae = getattr(pipe, "vae", None)
        if vae is None:
            raise NoEffect("the pipeline has no VAE")
        vae.decode = torch.compile(vae.decode, dynamic=False)
        return f"{type(vae).__name__}.decode compiled"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return Code(("pipe.vae.decode = torch.compile(pipe.vae.decode, dynamic=False)",))

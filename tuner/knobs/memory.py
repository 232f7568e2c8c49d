"""Weights that take less GPU memory: offloaded to the host, or stored in fewer bits. Neither is faster by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.knobs.base import Knob, NoEffect, denoisers, for_each_denoiser
from tuner.knobs.code import Code
from tuner.records.codec import Value
from tuner.records.gate import Allowance
from tuner.records.machine import Environment
from tuner.records.model import Architecture


class GroupOffload(Knob):
    """Keeps the weights of denoiser and text encoders in host memory and copies each block over just before it runs.

    The pipeline still has to fit on the GPU once, since it is loaded there first. It saves memory while generating.
    """

    name = "memory.group_offload"
    choices = (False, True)
    # After a regional compile, as a cache: its hooks then run around the compiled blocks.
    order = 45

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        return "a CPU has no other memory to copy from" if value and environment.device == "cpu" else None

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if not values.get(self.name):
            return None
        if values.get("compile.scope") == "full":
            return "it copies weights between blocks, which breaks the graph of the whole denoiser; regional works"
        if values.get("cache.kind", "none") != "none":
            return "a cache skips blocks whose weights were already copied to the GPU"
        return None

    def allowances(self, values: Mapping[str, Value]) -> tuple[Allowance, ...]:
        if not values[self.name]:
            return ()
        # It waits for the copies of every block, however many there are.
        return (Allowance(kind="device sync", count_per_step=10_000, knob=self.name),)

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        offload_groups(pipe)
        groups = sum(map(count_offloaded, denoisers(pipe)))
        if not groups:
            raise NoEffect("no block of the denoiser is offloaded")
        parameters = [parameter for denoiser in denoisers(pipe) for parameter in denoiser.parameters()]
        waiting = sum(p.numel() * p.element_size() for p in parameters if p.device.type == "cpu")
        if not waiting:
            raise NoEffect("the denoiser's weights stayed where they were")
        return f"{groups} blocks of the denoiser, {waiting / 1e9:.2f} GB, are kept in host memory"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return Code(("offload_groups(pipe)",), carried=(offload_groups,))


def offload_groups(pipe: Any) -> None:
    """Offload the denoisers block by block, and the text encoders layer by layer."""
    import torch
    from diffusers.hooks import apply_group_offloading

    device = denoisers(pipe)[0].device
    settings = {"onload_device": device, "offload_device": torch.device("cpu"), "use_stream": device.type == "cuda"}
    encoders = [part for name, part in pipe.components.items() if name.startswith("text_encoder")]
    for encoder in filter(None, encoders):
        apply_group_offloading(encoder, offload_type="leaf_level", **settings)
    for denoiser in denoisers(pipe):
        denoiser.enable_group_offload(offload_type="block_level", num_blocks_per_group=1, **settings)


def count_offloaded(model: Any) -> int:
    """Count the modules that copy their weights to the GPU before they run."""
    hooks = (getattr(module, "_diffusers_hook", None) for module in model.modules())
    return sum(registry is not None and registry.get_hook("group_offloading") is not None for registry in hooks)


class LayerwiseCasting(Knob):
    """Stores the denoiser's weights as 8-bit floats (e4m3) and widens each layer's just before it runs."""

    name = "memory.layerwise_casting"
    choices = (False, True)
    may_change_image = True
    order = 35
    uneven_steps = False
    changes_trajectory = False
    changes_noise = False
    other_arithmetic = False
    mixes_batch = False

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if not values.get(self.name):
            return None
        if values.get("quantization.scheme", "none") != "none":
            return "quantized weights are stored in few bits already"
        if values.get("compile.scope", "none") != "none":
            return "it widens weights between a block's layers, which breaks every graph, even that of a single block"
        if values.get("graphs.denoiser"):
            return "a CUDA graph replays on fixed addresses, and widened weights are new at each call"
        return None

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        import torch

        storage = torch.float8_e4m3fn
        stored, total = 0, 0
        for denoiser in denoisers(pipe):
            denoiser.enable_layerwise_casting(storage_dtype=storage, compute_dtype=denoiser.dtype)
            sizes = [(parameter.dtype, parameter.numel()) for parameter in denoiser.parameters()]
            stored += sum(count for dtype, count in sizes if dtype == storage)
            total += sum(count for _, count in sizes)
        if not stored:
            raise NoEffect("no weight is stored in 8 bits")
        return f"{stored / total:.0%} of the denoiser's weights are stored in 8 bits"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return for_each_denoiser(
            "denoiser.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=denoiser.dtype)"
        )

"""One image over several devices: diffusers splits the denoiser's sequence (context parallel) or its weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tuner.errors import Unavailable
from tuner.knobs.base import Knob, NoEffect, denoisers, for_each_denoiser, invalid_count_reason
from tuner.knobs.code import NOTHING, Code
from tuner.model.diffusers_source import class_source
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture

KIND, DEGREE = "parallel.kind", "parallel.degree"
RINGS = 2
"""The ring degree of `both`; the rest of its devices share the heads of each ring's part."""

WITH_LSE = ("flash", "_native_cudnn", "_native_flash", "sage")
"""Attention backends that also return the logarithms of the softmax sums, by which the parts of a ring are joined."""

EXCHANGING = ("native", *WITH_LSE)
"""Attention backends that diffusers' context parallel supports, without those whose kernels come from the hub."""

DECIDES_ALONE = "each device would decide by its own part of the image whether the cache skips a step"

CACHES_OF_WHOLE_IMAGES: Mapping[str, str] = {
    **dict.fromkeys(("first-block", "teacache", "dbcache"), DECIDES_ALONE),
    "faster": "the cache takes frequencies of a whole image, and each device has a part",
}
"""Caches that need more than a part of the image, and what for."""


@dataclass(frozen=True)
class Split:
    """How the work is split: the plan that a denoiser's class declares for it, and the arguments of its config.

    `splits_heads` returns over how many devices attention heads are split, which must divide them, or 1.
    """

    config: str
    plan: str
    arguments: Callable[[int], dict[str, Any]]
    backends: tuple[str, ...] = EXCHANGING
    splits_heads: Callable[[int], int] = int
    min_devices: int = 2


CONTEXT = ("ContextParallelConfig", "_cp_plan")

SPLITS: Mapping[str, Split] = {
    "ulysses": Split(*CONTEXT, lambda count: {"ulysses_degree": count}),
    "ulysses-anything": Split(
        *CONTEXT, lambda count: {"ulysses_degree": count, "ulysses_anything": True}, splits_heads=lambda count: 1
    ),
    "ring": Split(*CONTEXT, lambda count: {"ring_degree": count}, WITH_LSE, lambda count: 1),
    "both": Split(
        *CONTEXT, lambda count: {"ring_degree": RINGS, "ulysses_degree": count // RINGS}, WITH_LSE,
        lambda count: count // RINGS, 2 * RINGS,
    ),
    "tensor": Split("TensorParallelConfig", "_tp_plan", lambda count: {"tp_degree": count}, ()),
}  # fmt: skip


def device_count(values: Mapping[str, Value]) -> int:
    """Return how many devices a candidate computes one image on."""
    return int(values[DEGREE]) if values.get(KIND, "none") != "none" else 1


class ParallelKind(Knob):
    """How one image is spread over several devices: `ulysses`, `ring` and `both` split the sequence, `tensor` weights.

    Attention exchanges heads (`ulysses`) or keys and values (`ring`). `ulysses-anything` takes sequences and heads that
    the devices do not divide.
    """

    name = KIND
    choices = ("none", *SPLITS)
    # After a regional compile, as a cache: its hooks then run around the compiled blocks.
    order = 43
    other_arithmetic = True

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value == "none":
            return None
        split, count = SPLITS[str(value)], environment.devices
        if count < split.min_devices:
            return f"it needs {split.min_devices} devices, and an image may use {count} (tune run --devices N)"
        for denoiser in architecture.denoisers:
            if f"\n    {split.plan} = {{" not in class_source("models", denoiser.class_name):
                return f"diffusers has no plan to split {denoiser.class_name} so ({split.plan})"
        if environment.device == "cpu" and "native" not in split.backends:
            return (
                "no attention backend on a CPU returns the logarithms of the softmax sums"
                if split.backends
                else ("diffusers splits weights over GPUs only")
            )
        return None

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if values.get(self.name, "none") == "none":
            return None
        if reason := CACHES_OF_WHOLE_IMAGES.get(str(values.get("cache.kind"))):
            return reason
        if values[self.name] == "tensor":
            return tensor_conflict(values)
        if values[self.name] == "ulysses-anything" and values.get("compile.scope", "none") != "none":
            return "its exchange of lengths does not compile; ulysses does"
        backends = SPLITS[str(values[self.name])].backends
        if values.get("attention.backend", "native") not in backends:
            return f"it works with the attention backends {', '.join(backends)}"
        return None

    def is_set(self, pipe: Any, values: Mapping[str, Value]) -> bool:
        configs = [getattr(denoiser, "_parallel_config", None) for denoiser in denoisers(pipe)]
        return bool(configs) and None not in configs

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        kind, count = str(values[self.name]), int(values[DEGREE])
        split = SPLITS[kind]
        join_ranks(count)
        for denoiser in denoisers(pipe):
            split_over_devices(denoiser, split.config, split.arguments(count))
        if not self.is_set(pipe, values):
            raise NoEffect("the denoiser's work was not split")
        return f"{kind} over {count} devices, this is rank {this_rank()}"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        split, count = SPLITS[str(values[self.name])], int(values[DEGREE])
        return for_each_denoiser(
            f"split_over_devices(denoiser, {split.config!r}, {split.arguments(count)!r})", carried=(split_over_devices,)
        ).after(f"join_ranks({count})", carried=(join_ranks,), launcher=f"torchrun --nproc-per-node {count}")


class ParallelDegree(Knob):
    """The number of devices that compute one image together."""

    name = DEGREE
    choices = (2, 4, 8)
    order = 43

    def invalid_reason(self, value: Value) -> str | None:
        is_count = invalid_count_reason(value) is None and int(value) > 1
        return None if is_count else "must be a whole number from 2 on"

    def unavailable_reason(self, value: Value, environment: Environment, architecture: Architecture) -> str | None:
        if value == self.choices[0] or int(value) <= environment.devices:
            return None  # with one device there is no parallel.kind that this could belong to
        return f"it needs {value} devices, and an image may use {environment.devices} (tune run --devices {value})"

    def is_active(self, values: Mapping[str, Value]) -> bool:
        return values.get(KIND, "none") != "none"

    def conflict_reason(self, values: Mapping[str, Value], architecture: Architecture) -> str | None:
        if not self.is_active(values):
            return None
        kind, count = str(values[KIND]), int(values[self.name])
        if count < SPLITS[kind].min_devices or (kind == "both" and count % RINGS):
            return f"both needs an even number of at least {SPLITS[kind].min_devices} devices: {RINGS} rings"
        shared_by = SPLITS[kind].splits_heads(count)
        for denoiser in architecture.denoisers:
            heads = architecture.settings.get(denoiser.component, {}).get("num_attention_heads")
            if isinstance(heads, int) and heads % shared_by:
                return f"{shared_by} devices cannot share {heads} attention heads equally"
        return None

    def apply(self, pipe: Any, values: Mapping[str, Value]) -> str:
        return f"{values[self.name]} devices"

    def code(self, values: Mapping[str, Value]) -> Code | None:
        return NOTHING


def tensor_conflict(values: Mapping[str, Value]) -> str | None:
    """Return why weights cannot be split, or None: diffusers splits plain linear layers by their names."""
    if values.get("quantization.scheme", "none") != "none" or values.get("quantization.gguf_file", "none") != "none":
        return "quantized weights cannot be split"
    if any(values.get(name) for name in ("fuse_qkv", "single_blocks.fuse_input", "single_blocks.split_output")):
        return "the plan to split weights does not know regrouped products"
    if values.get("memory.layerwise_casting") or values.get("memory.group_offload"):
        return "weights that are split stay as they are on their devices"
    return None


def join_ranks(count: int) -> None:
    """Join the group of processes that share the work, one for each device, unless this process is in it.

    Raises Unavailable if torchrun did not start that many.
    """
    from torch import cuda, distributed

    start = f"start the program with: torchrun --nproc-per-node {count}"
    if not distributed.is_initialized():
        if "RANK" not in os.environ:
            raise Unavailable(f"this configuration needs {count} processes, one for each device: {start}")
        if cuda.is_available():
            cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda.is_available() else "gloo")
    if distributed.get_world_size() != count:
        raise Unavailable(f"this configuration needs {count} processes, not {distributed.get_world_size()}: {start}")


def this_rank() -> int:
    """Return the rank of this process in the group that it has joined."""
    from torch import distributed

    return int(distributed.get_rank())


def split_over_devices(denoiser: Any, config: str, arguments: Mapping[str, Any]) -> None:
    """Have the processes of the group share a denoiser's work."""
    import diffusers
    from torch.distributed.device_mesh import init_device_mesh

    sizes = {
        "ring": arguments.get("ring_degree", 1), "ulysses": arguments.get("ulysses_degree", 1)
    } if "tp_degree" not in arguments else {"tp": arguments["tp_degree"]}  # fmt: skip
    mesh = init_device_mesh(denoiser.device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    with counted_devices():
        denoiser.enable_parallelism(config=getattr(diffusers, config)(**arguments, mesh=mesh))


@contextmanager
def counted_devices() -> Iterator[None]:
    """Have a machine without accelerators count as one device: diffusers divides by their number."""
    from unittest.mock import patch

    import torch

    count = max(1, torch.accelerator.device_count())
    with patch.object(torch.accelerator, "device_count", return_value=count):
        yield

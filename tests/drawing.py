"""Loading a family's tiny pipeline and drawing a little with it, for the tests of knobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pipelines

from tuner.hardware.environment import detect
from tuner.model import architecture, pipeline
from tuner.records.codec import Value, Values
from tuner.records.machine import Environment
from tuner.records.model import Architecture, Model

CPU = detect("cpu")
GPU = Environment(
    device="cuda", device_name="a GPU", compute_capability="9.0", device_memory_bytes=2**34, driver="580",
    cpu_count=8, cpp_compiler="/usr/bin/g++", python="3.11.7", platform="Linux",
    libraries={"torch": "2.13.0", "torchao": "0.18.0", "triton": "3.5.0", "peft": "0.18.0"},
)  # fmt: skip
PROMPTS = ("a red cat", "the blue dog")
SHORT: dict[str, dict[str, Any]] = {"flux": {"max_sequence_length": 64}, "sd3": {"max_sequence_length": 64}}
"""Fewer text tokens than a family's own, which are most of what it computes for an image as small as these."""
FAMILIES = (*pipelines.FAMILIES, *pipelines.OTHERS)


def kind(folder: Path) -> Architecture:
    return architecture.read(folder / "model_index.json")


def load(folder: Path, device: str = "cpu") -> Any:
    """The untouched pipeline, in float32."""
    model = Model(source=str(folder), revision=None, pipeline_class=kind(folder).pipeline_class, scorer="demo")
    return pipeline.load(model, detect(device), "float32")


def shallow(pipe: Any) -> Any:
    """A FLUX pipeline that has one block of each kind left: dynamo captures the whole of it in half the time."""
    denoiser = pipe.transformer
    denoiser.transformer_blocks = denoiser.transformer_blocks[:1]
    denoiser.single_transformer_blocks = denoiser.single_transformer_blocks[:1]
    denoiser.register_to_config(num_layers=1, num_single_layers=1)
    return pipe


def draw(pipe: Any, family: str, steps: int = 2, **more: Any) -> Any:
    """Two images or videos as an array from 0 to 1."""
    import torch

    generators = [torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))]
    given = {"num_inference_steps": steps, "height": 32, "width": 32, "output_type": "np"}
    given |= {"generator": generators, **SHORT.get(family, {}), **pipelines.CALL.get(family, {}), **more}
    drawn = pipe(prompt=list(PROMPTS), **given)
    return np.asarray(drawn.images if hasattr(drawn, "images") else drawn.frames)


def is_valid(images: Any) -> bool:
    return bool(np.isfinite(images).all() and images.std() > 0.01 and len(images) == len(PROMPTS))


def is_one_line(text: str | None) -> bool:
    return bool(text and text.strip() and "\n" not in text)


def values(different: Mapping[str, Value]) -> Values:
    """A candidate that differs from the untouched pipeline in these values."""
    from tuner.knobs import KNOBS

    chosen: Values = {}
    for name, knob in KNOBS.items():
        if knob.is_active(chosen):
            chosen[name] = different.get(name, knob.baseline(CPU))
    return chosen


@contextmanager
def own_process_state() -> Iterator[None]:
    """A worker's process ends with its build; here what knobs set for the whole process is put back."""
    import torch
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry
    from torch._inductor import config

    flags = config.get_config_copy()
    backend = Registry._active_backend
    benchmark, tf32 = torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32
    try:
        yield
    finally:
        config.load_config(flags)
        Registry._active_backend = backend
        torch.backends.cudnn.benchmark = benchmark
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch._dynamo.reset()

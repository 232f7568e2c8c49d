"""The number format: the whole pipeline's, but for what its classes keep in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from drawing import CPU, GPU, draw, is_valid, kind, load
from kinds import kind as known

from tuner.knobs import KNOBS
from tuner.knobs.base import denoisers
from tuner.model import pipeline
from tuner.records.codec import Value
from tuner.records.model import Model

Folder = Callable[[str], Path]
DTYPE = KNOBS["precision.dtype"]


def loaded_in(folder: Path, dtype: Value) -> Any:
    model = Model(source=str(folder), revision=None, pipeline_class=kind(folder).pipeline_class, scorer="demo")
    return pipeline.load(model, CPU, dtype)


def dtypes(pipe: Any) -> dict[str, Any]:
    import torch

    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {f"{name}.{weight}": p.dtype for name, part in parts.items() for weight, p in part.named_parameters()}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["flux", "sdxl", "wan"])
def test_a_converted_pipeline_has_the_types_of_one_that_was_loaded_so(
    family: str, dtype: str, pipeline_folder: Folder
) -> None:
    import torch

    pipe = load(pipeline_folder(family))
    assert DTYPE.apply(pipe, {DTYPE.name: dtype}) == f"pipeline in {dtype}"
    assert dtypes(pipe) == dtypes(loaded_in(pipeline_folder(family), dtype))
    of_denoiser = {parameter.dtype for parameter in denoisers(pipe)[0].parameters()}
    half = getattr(torch, dtype)
    assert of_denoiser == ({half, torch.float32} if family == "wan" else {half})
    if dtype == "bfloat16":
        assert is_valid(draw(pipe, family, 1))
    DTYPE.apply(pipe, {DTYPE.name: "float32"})
    assert set(dtypes(pipe).values()) == {torch.float32}


def test_a_pipeline_loaded_in_the_type_is_left_as_it_is(pipeline_folder: Folder) -> None:
    import torch

    pipe = loaded_in(pipeline_folder("flux"), "bfloat16")
    pipe.vae.to(torch.float32)
    before = dtypes(pipe)
    assert DTYPE.apply(pipe, {DTYPE.name: "bfloat16"}) == "loaded in bfloat16"
    assert dtypes(pipe) == before


@pytest.mark.parametrize(
    ("capability", "untouched"), [("7.5", "float16"), ("8.0", "bfloat16"), ("9.0", "bfloat16"), ("12.0", "bfloat16")]
)
def test_the_untouched_pipeline_is_in_a_type_that_the_gpu_has(capability: str, untouched: str) -> None:
    here = msgspec.structs.replace(GPU, compute_capability=capability)
    assert DTYPE.baseline(here) == untouched
    assert DTYPE.unavailable_reason(untouched, here, known()) is None
    assert (DTYPE.unavailable_reason("bfloat16", here, known()) is None) is (untouched == "bfloat16")
    assert DTYPE.baseline(CPU) == "float32"

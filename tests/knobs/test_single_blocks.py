"""Regrouped products of single-stream blocks: the same images, fewer or more products, no weight held twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawing import CPU, FAMILIES, draw, kind, load, values

from tuner.knobs import KNOBS, NoEffect, apply_knobs
from tuner.knobs.single_blocks import single_blocks
from tuner.records.codec import Values

Folder = Callable[[str], Path]
FUSE, SPLIT = "single_blocks.fuse_input", "single_blocks.split_output"
HAVING = {"flux", "chroma"}

pytestmark = pytest.mark.usefixtures("process_state")


def parameters(pipe: Any) -> int:
    return sum(parameter.numel() for parameter in pipe.transformer.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_offered_where_the_blocks_are_known(family: str, pipeline_folder: Folder) -> None:
    for name in (FUSE, SPLIT):
        reason = KNOBS[name].unavailable_reason(True, CPU, kind(pipeline_folder(family)))
        assert (reason is None) is (family in HAVING), reason


@pytest.mark.parametrize("family", sorted(HAVING))
@pytest.mark.parametrize(
    "different", [{FUSE: True}, {SPLIT: True}, {FUSE: True, SPLIT: True, "fuse_qkv": True}], ids=str
)
def test_regrouped_products_draw_the_same(family: str, different: Values, pipeline_folder: Folder) -> None:
    import torch

    pipe = load(pipeline_folder(family))
    untouched, size = draw(pipe, family), parameters(pipe)
    apply_knobs(pipe, values(different), CPU)
    assert np.abs(draw(pipe, family) - untouched).max() < 1e-4
    assert "fuse_qkv" in different or parameters(pipe) == size
    for block in single_blocks(pipe):
        linear = [name for name, module in block.named_children() if isinstance(module, torch.nn.Linear)]
        first = ["qkv_mlp"] if FUSE in different else ["proj_mlp"]
        assert sorted(linear) == sorted(first + (["out_attn", "out_mlp"] if SPLIT in different else ["proj_out"]))
    for block in single_blocks(pipe):
        for module in block.children():
            if isinstance(module, torch.nn.Linear):
                module.weight.data.zero_()
    assert np.abs(draw(pipe, family) - untouched).max() > 1e-3, "the new layers are the ones that count"


@pytest.mark.usefixtures("only_dynamo")
def test_new_layers_are_quantized_and_compiled(tiny_pipeline: Path) -> None:
    pipe = load(tiny_pipeline)
    different: Values = {
        FUSE: True, SPLIT: True, "quantization.scheme": "int8-weight-only", "compile.scope": "regional",
    }  # fmt: skip
    apply_knobs(pipe, values(different), CPU)
    for block in single_blocks(pipe):
        for layer in (block.qkv_mlp, block.out_attn, block.out_mlp):
            assert type(layer.weight).__module__.startswith("torchao")
    assert np.isfinite(draw(pipe, "flux")).all()


@pytest.mark.parametrize("name", [FUSE, SPLIT])
def test_no_block_no_effect(name: str, pipeline_folder: Folder) -> None:
    with pytest.raises(NoEffect, match="no single-stream blocks"):
        KNOBS[name].apply(load(pipeline_folder("sd3")), {name: True})


def test_packed_weights_are_refused(tiny_pipeline: Path) -> None:
    given = values({FUSE: True, "quantization.gguf_file": "/a.gguf"})
    assert "packed weights" in str(KNOBS[FUSE].conflict_reason(given, kind(tiny_pipeline)))

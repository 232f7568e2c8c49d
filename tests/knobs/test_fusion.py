"""Fused projections are really used: the weights that they were made from may be anything then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawing import CPU, FAMILIES, draw, is_one_line, kind, load

from tuner.errors import Unavailable
from tuner.knobs import KNOBS
from tuner.knobs.base import denoisers
from tuner.knobs.fusion import is_fused

Folder = Callable[[str], Path]
FUSE = KNOBS["fuse_qkv"]
FUSING = {"flux", "flux2", "sdxl", "pixart", "wan", "sd15", "auraflow", "wan22", "cogvideox"}
"""Not sd3 as it is here: its fused processor leaves out norms that the denoiser has."""


def spoil(layer: Any) -> None:
    """Make the weights that were fused useless. The queries' are still needed where the text gives keys and values."""
    import torch

    parts = ["to_k", "to_v"] + (["to_q"] if hasattr(layer, "to_qkv") else [])
    parts += ["add_q_proj", "add_k_proj", "add_v_proj"] if hasattr(layer, "to_added_qkv") else []
    for part in parts:
        torch.nn.init.zeros_(getattr(layer, part).weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_weights_are_the_ones_that_count(family: str, pipeline_folder: Folder) -> None:
    folder = pipeline_folder(family)
    reason = FUSE.unavailable_reason(True, CPU, kind(folder))
    assert (reason is None) is (family in FUSING)
    if reason is not None:
        assert is_one_line(reason)
        return
    pipe = load(folder)
    untouched = draw(pipe, family)
    line = FUSE.apply(pipe, {"fuse_qkv": True})
    modules = [module for denoiser in denoisers(pipe) for module in denoiser.modules()]
    fused = [module for module in modules if hasattr(module, "fused_projections") and is_fused(module)]
    assert line.startswith(f"{len(fused)} attention layers fused")
    for layer in fused:
        spoil(layer)
    assert np.abs(draw(pipe, family) - untouched).max() < 1e-4
    for layer in fused:
        (layer.to_qkv if hasattr(layer, "to_qkv") else layer.to_kv).weight.data.zero_()
    assert np.abs(draw(pipe, family) - untouched).max() > 1e-3


def test_norms_that_a_fused_processor_leaves_out_are_not_lost(pipeline_folder: Folder) -> None:
    assert "norms" in str(FUSE.unavailable_reason(True, CPU, kind(pipeline_folder("sd3"))))
    with pytest.raises(Unavailable, match="norms"):
        FUSE.apply(load(pipeline_folder("sd3")), {"fuse_qkv": True})


def test_stable_diffusion_3_without_norms_is_fused() -> None:
    import torch
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    model = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=16,
        joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=32, out_channels=4,
        pos_embed_max_size=8,
    )  # fmt: skip
    given = {
        "hidden_states": torch.randn(1, 4, 8, 8), "encoder_hidden_states": torch.randn(1, 5, 32),
        "pooled_projections": torch.randn(1, 32), "timestep": torch.tensor([500]),
    }  # fmt: skip

    class Pipe:
        transformer = model

    with torch.no_grad():
        untouched = model(**given).sample
        assert FUSE.apply(Pipe(), {"fuse_qkv": True}) == "2 attention layers fused"
        for block in model.transformer_blocks:
            spoil(block.attn)
        assert torch.allclose(model(**given).sample, untouched, atol=1e-5)


def test_flux2_says_what_it_leaves(pipeline_folder: Folder) -> None:
    line = FUSE.apply(load(pipeline_folder("flux2")), {"fuse_qkv": True})
    assert line == "2 attention layers fused, 2 others unchanged"

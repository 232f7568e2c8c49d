"""Weights in host memory or in fewer bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from drawing import CPU, FAMILIES, GPU, draw, is_one_line, is_valid, kind, load, values
from kinds import kind as known

from tuner.knobs import KNOBS, NoEffect, apply_knobs
from tuner.knobs.base import denoisers
from tuner.records.codec import Value

Folder = Callable[[str], Path]
OFFLOAD, CASTING = KNOBS["memory.group_offload"], KNOBS["memory.layerwise_casting"]


@pytest.mark.parametrize("family", FAMILIES)
def test_casting_stores_eight_bits_and_draws_almost_the_same(family: str, pipeline_folder: Folder) -> None:
    import torch

    pipe = load(pipeline_folder(family))
    assert CASTING.unavailable_reason(True, CPU, kind(pipeline_folder(family))) is None
    untouched = draw(pipe, family)
    before = sum(denoiser.get_memory_footprint() for denoiser in denoisers(pipe))
    line = CASTING.apply(pipe, {CASTING.name: True})
    assert is_one_line(line)
    drawn = draw(pipe, family)
    assert is_valid(drawn)
    assert not np.array_equal(drawn, untouched)
    assert np.abs(drawn - untouched).mean() < 0.25 * untouched.std()
    for denoiser in denoisers(pipe):
        assert denoiser.dtype == torch.float32, "what is computed in does not change"
        assert any(parameter.dtype == torch.float8_e4m3fn for parameter in denoiser.parameters())
    assert sum(denoiser.get_memory_footprint() for denoiser in denoisers(pipe)) < before
    assert CASTING.may_change_image


@pytest.mark.parametrize("scope", ["regional", "full"])
def test_casting_is_refused_beside_compiled_graphs(scope: str) -> None:
    assert is_one_line(CASTING.conflict_reason(values({CASTING.name: True, "compile.scope": scope}), known()))


@pytest.mark.exhaustive  # whether torch still does so, which only another torch can change
@pytest.mark.parametrize("scope", ["regional", "full"])
def test_casting_breaks_compiled_graphs(
    scope: str, pipeline_folder: Folder, only_dynamo: None, process_state: None
) -> None:
    from torch._dynamo.utils import counters

    pipe = load(pipeline_folder("flux"))
    CASTING.apply(pipe, {CASTING.name: True})
    KNOBS["compile.scope"].apply(pipe, values({"compile.scope": scope}))
    counters.clear()
    draw(pipe, "flux", 1)
    assert counters["graph_break"], "if this no longer breaks, the conflict can go"


@pytest.mark.parametrize("family", FAMILIES)
def test_offloaded_blocks_draw_the_same(family: str, pipeline_folder: Folder) -> None:
    """On a CPU only the hooks can be seen at work: there is no other memory to copy from, and no stream."""
    pipe = load(pipeline_folder(family))
    untouched = draw(pipe, family)
    line = OFFLOAD.apply(pipe, {OFFLOAD.name: True})
    assert is_one_line(line)
    assert int(line.split()[0]) > 1
    assert np.array_equal(draw(pipe, family), untouched)


def test_casting_layers_that_are_not_there_has_no_effect() -> None:
    import torch
    from diffusers import AutoencoderTiny

    empty = AutoencoderTiny(
        encoder_block_out_channels=(16,), decoder_block_out_channels=(16,), num_encoder_blocks=(1,),
        num_decoder_blocks=(1,),
    )  # fmt: skip
    empty.encoder = empty.decoder = None
    empty.nothing = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(NoEffect):
        CASTING.apply(SimpleNamespace(transformer=empty), {CASTING.name: True})


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["flux", "sdxl", "wan"])
@pytest.mark.parametrize("scope", ["none", "regional"])
def test_on_a_gpu_the_weights_wait_in_host_memory(
    scope: str, family: str, pipeline_folder: Folder, process_state: None
) -> None:
    import torch

    pipe = load(pipeline_folder(family), "cuda")
    untouched = draw(pipe, family)
    before = torch.cuda.memory_allocated()
    if scope != "none":
        KNOBS["compile.scope"].apply(pipe, values({"compile.scope": scope}))
    assert is_one_line(OFFLOAD.apply(pipe, {OFFLOAD.name: True}))
    assert torch.cuda.memory_allocated() < before
    for _ in range(2):
        assert np.abs(draw(pipe, family) - untouched).max() < 0.02


def test_a_cpu_has_nowhere_to_offload_to(pipeline_folder: Folder) -> None:
    flux = kind(pipeline_folder("flux"))
    assert is_one_line(OFFLOAD.unavailable_reason(True, CPU, flux))
    assert OFFLOAD.unavailable_reason(False, CPU, flux) is None
    assert OFFLOAD.unavailable_reason(True, GPU, flux) is None


@pytest.mark.parametrize(
    ("beside", "refused"),
    [
        ({"compile.scope": "full"}, True), ({"compile.scope": "regional"}, False),
        ({"compile.scope": "full", "compile.mode": "reduce-overhead"}, True),
        ({"compile.scope": "regional", "compile.mode": "reduce-overhead"}, True), ({"graphs.denoiser": True}, True),
        ({"cache.kind": "first-block"}, True), ({"fuse_qkv": True}, False), ({"vae.tiling": True}, False),
    ],
)  # fmt: skip
def test_what_offloading_cannot_go_with(beside: dict[str, Value], refused: bool) -> None:
    chosen = values({OFFLOAD.name: True, **beside})
    reasons = [reason for name in chosen if (reason := KNOBS[name].conflict_reason(chosen, known()))]
    assert bool(reasons) is refused
    assert all(map(is_one_line, reasons))
    assert OFFLOAD.conflict_reason(values(beside), known()) is None


def test_casting_is_refused_where_weights_must_stay_put() -> None:
    assert is_one_line(CASTING.conflict_reason(values({CASTING.name: True, "graphs.denoiser": True}), known()))


def test_casting_quantized_weights_is_refused() -> None:
    assert is_one_line(
        CASTING.conflict_reason(values({CASTING.name: True, "quantization.scheme": "int8-weight-only"}), known())
    )
    assert CASTING.conflict_reason(values({"quantization.scheme": "int8-weight-only"}), known()) is None
    assert CASTING.conflict_reason(values({CASTING.name: True}), known()) is None


@pytest.mark.parametrize("family", ["flux", "sdxl"])
def test_projections_fused_weights_cast_and_offloaded_go_together(family: str, pipeline_folder: Folder) -> None:
    together = values({"fuse_qkv": True, CASTING.name: True, OFFLOAD.name: True})
    assert not [name for name in together if KNOBS[name].conflict_reason(together, known())]
    changes = apply_knobs(pipe := load(pipeline_folder(family)), together, CPU)
    assert list(changes) == ["fuse_qkv", CASTING.name, OFFLOAD.name]
    assert is_valid(draw(pipe, family))


def test_only_offloading_waits_by_design() -> None:
    [allowance] = OFFLOAD.allowances(values({OFFLOAD.name: True}))
    assert (allowance.kind, allowance.knob) == ("device sync", OFFLOAD.name)
    assert OFFLOAD.allowances(values({})) == ()
    assert CASTING.allowances(values({CASTING.name: True})) == ()


def test_offloading_comes_after_a_regional_compile_and_casting_before() -> None:
    assert CASTING.order < KNOBS["compile.scope"].order < OFFLOAD.order < KNOBS["cache.kind"].order

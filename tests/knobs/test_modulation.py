"""Modulation computed once a call: the same images, whatever changes between calls, and really from the table."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawing import CPU, FAMILIES, draw, kind, load, values
from replaying import Recorded

from tuner.knobs import KNOBS, apply_knobs
from tuner.knobs.graphs import CapturedCall
from tuner.knobs.modulated_layers import plain
from tuner.knobs.modulation import Modulation, row_of
from tuner.records.codec import Values
from tuner.trace import dynamo

Folder = Callable[[str], Path]
ONCE = KNOBS["modulation.once"]
ON: Values = {"modulation.once": True}
LAYERS = {"flux": 7, "flux2": 4, "sd3": 7, "qwen-image": 5, "auraflow": 7, "ovis-image": 7, "cogvideox": 5}
"""The families that have it, and the products of one row that a tiny denoiser has."""

pytestmark = pytest.mark.usefixtures("process_state")


def modulation(pipe: Any) -> Modulation:
    call = pipe.transformer._compiled_call_impl
    assert isinstance(call, Modulation)
    return call


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each product of modulation that is computed."""
    rows: list[int] = []

    def counted(module: Any, *arguments: Any, **named: Any) -> Any:
        if type(module).__name__ == "Linear":
            rows.append(len(arguments[0]))
        return plain(module, *arguments, **named)

    monkeypatch.setattr("tuner.knobs.modulated_layers.plain", counted)
    return rows


@pytest.mark.parametrize("family", FAMILIES)
def test_the_second_call_multiplies_once_for_all_steps(family: str, pipeline_folder: Folder, products: Any) -> None:
    folder = pipeline_folder(family)
    assert (ONCE.unavailable_reason(True, CPU, kind(folder)) is None) is (family in LAYERS)
    if family not in LAYERS:
        return
    pipe = load(folder)
    untouched = draw(pipe, family, 3)
    apply_knobs(pipe, values(ON), CPU)
    assert np.abs(draw(pipe, family, 3) - untouched).max() < 1e-5
    products.clear()
    assert np.abs(draw(pipe, family, 3) - untouched).max() < 1e-5
    assert ONCE.idle_reason(pipe, ON) is None
    assert len(products) in (LAYERS[family], 2 * LAYERS[family]), "with guidance there are two branches"
    assert min(products) >= 3
    assert not modulation(pipe)._branches, "the VAE does not share memory with the tables"


def test_what_a_call_is_given_counts_and_not_what_the_last_was_given(tiny_pipeline: Path) -> None:
    plain_pipe, pipe = load(tiny_pipeline), load(tiny_pipeline)
    apply_knobs(pipe, values(ON), CPU)
    guided = {"negative_prompt": ["blue", "green"], "true_cfg_scale": 3.0}
    calls: list[dict[str, Any]] = [
        {"steps": 2}, {"steps": 2}, {"steps": 3, "guidance_scale": 1.0}, {"steps": 2, "guidance_scale": 7.0},
        {"steps": 2, "num_images_per_prompt": 2, "generator": None}, {"steps": 3, **guided}, {"steps": 3, **guided},
        {"steps": 2, "sigmas": [0.9, 0.3]}, {"steps": 2, "sigmas": [0.9, 0.3]}, {"steps": 2},
    ]  # fmt: skip
    import torch

    for given in calls:
        if "generator" in given:
            given = given | {"latents": torch.ones(4, 16, 16)}
        assert np.abs(draw(pipe, "flux", **given) - draw(plain_pipe, "flux", **given)).max() < 1e-5, given
    pooled = {"prompt": None, "prompt_embeds": torch.ones(2, 16, 32), "pooled_prompt_embeds": torch.ones(2, 32)}
    for _ in range(3):
        pooled["pooled_prompt_embeds"].mul_(-2)  # the same object, with other content
        given = {**pooled, "num_inference_steps": 2, "height": 32, "width": 32, "output_type": "np"}
        images = [each(**given, latents=torch.ones(2, 16, 16)).images for each in (pipe, plain_pipe)]
        assert np.abs(images[0] - images[1]).max() < 1e-5


def test_a_call_that_ended_early_teaches_nothing(tiny_pipeline: Path) -> None:
    plain_pipe, pipe = load(tiny_pipeline), load(tiny_pipeline)
    apply_knobs(pipe, values(ON), CPU)

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(pipe, "flux", 3, callback_on_step_end=stop)
    for _ in range(3):
        assert np.abs(draw(pipe, "flux", 3) - draw(plain_pipe, "flux", 3)).max() < 1e-5
    assert modulation(pipe)._known is not None
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            draw(pipe, "flux", 4, callback_on_step_end=stop)
    assert np.abs(draw(pipe, "flux", 4) - draw(plain_pipe, "flux", 4)).max() < 1e-5
    assert "each timestep" in str(ONCE.idle_reason(pipe, ON))


def test_timesteps_are_not_read_back_from_the_gpu(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    pipe = load(tiny_pipeline)
    apply_knobs(pipe, values(ON), CPU)
    draw(pipe, "flux", 2)
    draw(pipe, "flux", 2)
    read, tolist = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: read.append(tensor) or tolist(tensor))
    draw(pipe, "flux", 2)
    assert not any(tensor is pipe.scheduler.timesteps for tensor in read)
    assert modulation(pipe)._known is not None


def test_inputs_made_in_inference_mode_may_change_unseen(tiny_pipeline: Path) -> None:
    import torch

    plain_pipe, pipe = load(tiny_pipeline), load(tiny_pipeline)
    apply_knobs(pipe, values(ON), CPU)
    with torch.inference_mode():
        pooled = torch.ones(1, 32)
    given = {"prompt_embeds": torch.ones(1, 16, 32), "pooled_prompt_embeds": pooled, "num_inference_steps": 3}

    def change(*_: Any) -> dict[str, Any]:
        with torch.inference_mode():
            pooled.mul_(-2)
        return {}

    images = []
    for each in (plain_pipe, pipe, plain_pipe, pipe):
        with torch.inference_mode():
            pooled.fill_(1.0)
        size = {"height": 32, "width": 32, "output_type": "np", "latents": torch.ones(1, 16, 16)}
        images.append(each(**given, **size, callback_on_step_end=change).images)
    assert np.abs(images[1] - images[0]).max() < 1e-5 and np.abs(images[3] - images[2]).max() < 1e-5
    assert "inference_mode" in str(ONCE.idle_reason(pipe, ON))


def test_a_pipeline_whose_inputs_are_new_in_each_step_is_drawn_right_and_told(tiny_pipeline: Path) -> None:
    pipe = load(tiny_pipeline)
    untouched = draw(pipe, "flux", 6)
    apply_knobs(pipe, values(ON), CPU)
    call = pipe.transformer.__class__.__call__

    def renewed(module: Any, *arguments: Any, **named: Any) -> Any:
        return call(module, *arguments, **{**named, "pooled_projections": named["pooled_projections"].clone()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe.transformer.__class__, "__call__", renewed)
        for _ in range(2):
            assert np.abs(draw(pipe, "flux", 6) - untouched).max() < 1e-5
    assert "other inputs in each step" in str(ONCE.idle_reason(pipe, ON))


@pytest.mark.usefixtures("only_dynamo")
@pytest.mark.parametrize(
    "beside",
    [pytest.param({"compile.scope": "regional"}, marks=pytest.mark.exhaustive),  # a part of the last
     {"compile.scope": "full", "graphs.scheduler_step": True}, {"cache.kind": "teacache", "cache.threshold": 1e-9},
     pytest.param({"graphs.denoiser": True}, marks=pytest.mark.exhaustive),  # a part of the second
     {"compile.scope": "regional", "single_blocks.fuse_input": True, "quantization.scheme": "int8-weight-only"},
     {"compile.scope": "regional", "single_blocks.split_output": True, "quantization.scheme": "fp8-static-tensor"}],
    ids=lambda beside: " ".join(beside),
)  # fmt: skip
def test_it_works_beside_what_wraps_the_denoiser(
    tiny_pipeline: Path, beside: Values, monkeypatch: pytest.MonkeyPatch, products: Any
) -> None:
    monkeypatch.setattr(CapturedCall, "_record", Recorded._record)
    monkeypatch.setattr(CapturedCall, "recorded", 0, raising=False)
    reference = load(tiny_pipeline)
    apply_knobs(reference, values({name: value for name, value in beside.items() if "quant" in name}), CPU)
    pipe = load(tiny_pipeline)
    apply_knobs(pipe, values({**beside, **ON}), CPU)
    allowed = 5e-3 if "fp8" in str(beside) else 1e-4  # rounding to 8 bits
    for steps in (3, 3, 4, 4, 3):
        products.clear()
        assert np.abs(draw(pipe, "flux", steps) - draw(reference, "flux", steps)).max() < allowed
    assert modulation(pipe)._known is not None and len(products) == LAYERS["flux"]


@pytest.mark.usefixtures("only_dynamo")
def test_compiled_code_of_one_block_serves_all_blocks_like_it(tiny_pipeline: Path) -> None:
    pipe = load(tiny_pipeline)
    blocks = pipe.transformer.single_transformer_blocks
    blocks.extend(copy.deepcopy(blocks[0]) for _ in range(8))  # more than torch compiles one function for
    untouched = draw(pipe, "flux")
    log = dynamo.start_compile_log()
    apply_knobs(pipe, values({"compile.scope": "regional", **ON}), CPU)
    for _ in range(2):
        assert np.abs(draw(pipe, "flux") - untouched).max() < 1e-5
    assert log.read().unique_graphs == 3, "double blocks, and single blocks with two strides"


def test_an_unknown_timestep_is_no_number_and_not_another_ones_row() -> None:
    import torch

    table = torch.arange(6.0).reshape(3, 2, 1)
    known = torch.tensor([0.25, 0.5, 1.0])
    assert row_of(table, known, torch.tensor([1.0, 0.25])).flatten().tolist() == [4, 1]
    assert row_of(table, known, torch.tensor(0.5)).flatten().tolist() == [2, 3]
    assert row_of(table, known, torch.tensor([0.5, 0.75])).isnan().flatten().tolist() == [False, True]


@pytest.mark.parametrize(
    "beside", [{"memory.group_offload": True}, {"memory.layerwise_casting": True}, {"cache.kind": "dbcache"}], ids=str
)
def test_what_it_cannot_work_with_is_told(beside: Values, tiny_pipeline: Path) -> None:
    assert ONCE.conflict_reason(values({**beside, **ON}), kind(tiny_pipeline))
    assert ONCE.conflict_reason(values(beside), kind(tiny_pipeline)) is None

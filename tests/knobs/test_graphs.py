"""The denoiser's graph: replayed or with the scheduler's step in it, it draws what the plain pipeline draws."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from drawing import CPU, GPU, draw, is_valid, load, shallow, values
from kinds import kind
from replaying import Recorded

from tuner.knobs import KNOBS, NoEffect, apply_knobs
from tuner.knobs.compile import compile_options
from tuner.knobs.graphs import MAX_GRAPHS, CapturedCall, DenoiserWithStep, replays_cuda_graphs
from tuner.knobs.torchao_configs import CONFIGS
from tuner.records.codec import Value, Values
from tuner.trace import dynamo

STEPPED: Values = {"compile.scope": "full", "graphs.scheduler_step": True}
GUIDED = {"negative_prompt": ["blue", "green"], "true_cfg_scale": 3.0}

pytestmark = pytest.mark.usefixtures("process_state")


@pytest.fixture(scope="module")
def untouched(tiny_pipeline: Path) -> Any:
    return draw(shallow(load(tiny_pipeline)), "flux", 4)


# ---- the scheduler's step -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("only_dynamo")
def test_the_step_is_in_the_denoisers_graph_and_draws_the_same(tiny_pipeline: Path, untouched: Any) -> None:
    pipe = shallow(load(tiny_pipeline))
    log = dynamo.start_compile_log()
    changes = apply_knobs(pipe, values(STEPPED), CPU)
    assert changes["graphs.scheduler_step"] == "FlowMatchEulerDiscreteScheduler.step compiled with the denoiser"
    step, counted = pipe.scheduler.step, []

    def marked(*arguments: Any, **named: Any) -> Any:
        result = step(*arguments, **named)
        counted.append(pipe.scheduler.step_index)
        return result

    pipe.scheduler.step = marked
    assert np.array_equal(draw(pipe, "flux", 4), untouched)
    assert counted == [1, 2, 3, 4], "the scheduler is still called and counts each step"
    assert np.array_equal(draw(pipe, "flux", 4), untouched), "a second call begins at step 0 again"
    assert is_valid(draw(pipe, "flux", 6))
    assert (log.read().unique_graphs, log.read().breaks) == (1, ())


class Denoiser:
    """Stands for a denoiser: a function of latents and time, called as a pipeline calls it."""

    def _call_impl(self, hidden_states: Any, timestep: Any, return_dict: bool = False) -> tuple[Any]:
        return ((hidden_states * 0.7 - timestep).sin(),)


def scheduler(begin_index: int | None = 0, **config: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    made = FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **config})
    made.set_timesteps(6)
    if begin_index is not None:
        made.set_begin_index(begin_index)
    return made


def denoised(call: Callable[..., Any], by: Any, latents: Any) -> Any:
    """The latents after all steps, as FluxPipeline takes them."""
    for time in by.timesteps:
        velocity = call(hidden_states=latents, timestep=(time / 1000).to(latents.dtype))[0]
        latents = by.step(velocity, time, latents, return_dict=False)[0]
    return latents


@pytest.mark.usefixtures("only_dynamo")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("config", [{}, {"use_karras_sigmas": True}, {"shift_terminal": 0.1}], ids=str)
def test_the_arithmetic_is_the_schedulers_to_the_last_bit(dtype: str, config: dict[str, Any]) -> None:
    import torch

    latents = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    plain = scheduler(**config)
    expected = denoised(Denoiser()._call_impl, plain, latents)
    stepped = scheduler(**config)
    call = DenoiserWithStep(Denoiser(), stepped, compile_options(values(STEPPED)))
    stepped.step = call.step
    with torch.no_grad():
        assert torch.equal(denoised(call, stepped, latents), expected)
    assert expected.dtype == latents.dtype
    assert stepped.step_index == plain.step_index == 6


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_arithmetic_survives_inductor(tiny_pipeline: Path, untouched: Any) -> None:
    pipe = shallow(load(tiny_pipeline))
    apply_knobs(pipe, values(STEPPED), CPU)
    assert np.allclose(draw(pipe, "flux", 4), untouched, atol=1e-4)


def stepped(by: Any) -> DenoiserWithStep:
    call = DenoiserWithStep(Denoiser(), by, compile_options(values(STEPPED)))
    by.step = call.step
    return call


@pytest.mark.usefixtures("only_dynamo")
def test_a_step_gives_back_an_output_where_one_is_asked_for() -> None:
    import torch

    by = scheduler()
    call, latents = stepped(by), torch.ones(1, 2)
    velocity = call(hidden_states=latents, timestep=by.timesteps[0] / 1000)[0]
    expected = scheduler().step(velocity, by.timesteps[0], latents).prev_sample
    assert torch.equal(by.step(velocity, by.timesteps[0], latents).prev_sample, expected)


@pytest.mark.usefixtures("only_dynamo")
def test_guidance_from_the_first_step_on_makes_it_no_effect(tiny_pipeline: Path) -> None:
    pipe = shallow(load(tiny_pipeline))
    apply_knobs(pipe, values(STEPPED), CPU)
    with pytest.raises(NoEffect, match="does not pass the denoiser's output to the scheduler unchanged"):
        draw(pipe, "flux", 2, **GUIDED)


@pytest.mark.usefixtures("only_dynamo")
def test_guidance_later_on_is_drawn_right(tiny_pipeline: Path) -> None:
    expected = draw(shallow(load(tiny_pipeline)), "flux", 3, **GUIDED)
    pipe = shallow(load(tiny_pipeline))
    apply_knobs(pipe, values(STEPPED), CPU)
    draw(pipe, "flux", 2)
    assert np.array_equal(draw(pipe, "flux", 3, **GUIDED), expected)


@pytest.mark.usefixtures("only_dynamo")
def test_a_scheduler_that_looks_for_its_first_step_is_no_effect() -> None:
    import torch

    by = scheduler(begin_index=None)
    with pytest.raises(NoEffect, match="does not set the scheduler's begin index"):
        stepped(by)(hidden_states=torch.ones(1, 2), timestep=by.timesteps[0])


@pytest.mark.parametrize(
    "by", [SimpleNamespace(step=None), scheduler(stochastic_sampling=True)], ids=["other", "noisy"]
)
def test_another_scheduler_is_no_effect(by: Any) -> None:
    with pytest.raises(NoEffect, match="not a deterministic FlowMatchEuler"):
        KNOBS["graphs.scheduler_step"].apply(SimpleNamespace(scheduler=by, transformer=Denoiser()), values(STEPPED))


def test_the_step_is_offered_where_it_can_work() -> None:
    knob = KNOBS["graphs.scheduler_step"]
    assert knob.unavailable_reason(True, CPU, kind()) is None
    assert "only FluxPipeline" in str(knob.unavailable_reason(True, CPU, kind("QwenImagePipeline")))
    heun = msgspec.structs.replace(kind(), components={"scheduler": "FlowMatchHeunDiscreteScheduler"})
    assert "only the Euler step" in str(knob.unavailable_reason(True, CPU, heun))
    assert knob.name not in values({"compile.scope": "regional"})
    assert knob.name in values({"compile.scope": "full"})
    for other in ({"cache.kind": "first-block"}, {"scheduler.kind": "heun"}):
        assert knob.conflict_reason({**STEPPED, **other}, kind())


# ---- CUDA graphs ----------------------------------------------------------------------------------------------------


def test_one_recording_serves_all_inputs_of_one_shape() -> None:
    import torch

    call = Recorded(lambda x, *, scale, options: (x * scale, options), "cpu")
    first, options = call(torch.ones(3), scale=torch.tensor(2.0), options={"mode": "a", "sizes": [1, 2]})
    second, _ = call(torch.full((3,), 5.0), scale=torch.tensor(3.0), options={"mode": "a", "sizes": [1, 2]})
    assert call.recorded == 1
    assert first.tolist() == [2, 2, 2], "kept while the graph was replayed, as guidance keeps it"
    assert second.tolist() == [15, 15, 15]
    assert options == {"mode": "a", "sizes": [1, 2]}


def test_what_a_graph_cannot_vary_is_recorded_anew() -> None:
    import torch

    call = Recorded(lambda x, scale=1.0, **_: x * scale, "cpu")
    ones = torch.ones(3)
    different: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((ones,), {}),
        ((ones,), {"scale": 2.0}),
        ((ones,), {"scale": 2}),
        ((ones,), {"scale": True}),
        ((ones,), {"scale": torch.tensor(2.0)}),
        ((ones,), {"other": None}),
        ((ones, 2.0), {}),
        ((torch.ones(4),), {}),
        ((ones.double(),), {}),
    ]
    for repeat in range(2):
        for arguments, named in different:
            expected = arguments[0] * named.get("scale", arguments[1] if len(arguments) > 1 else 1.0)
            assert torch.equal(call(*arguments, **named), expected), (repeat, named)
    assert call.recorded == len(different)


def test_an_expanded_input_gets_memory_of_its_own() -> None:
    import torch

    call = Recorded(lambda x: x + 1, "cpu")
    assert call(torch.tensor(1.0).expand(4)).tolist() == [2, 2, 2, 2]
    assert call(torch.arange(4.0)).tolist() == [1, 2, 3, 4]
    assert call.recorded == 1


def test_an_input_that_never_repeats_is_an_error_and_not_a_leak() -> None:
    import torch

    call = Recorded(lambda x, step: x + step, "cpu")
    with pytest.raises(RuntimeError, match=f"{MAX_GRAPHS} inputs of different shape or value"):
        for step in range(MAX_GRAPHS + 1):
            call(torch.ones(1), step)
    assert call.recorded == MAX_GRAPHS


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CapturedCall, "_record", Recorded._record)
    monkeypatch.setattr(CapturedCall, "recorded", 0, raising=False)


@pytest.mark.usefixtures("recorded", "only_dynamo")
@pytest.mark.parametrize("scope", ["none", "regional", "full"])
def test_a_replayed_denoiser_draws_the_same(tiny_pipeline: Path, untouched: Any, scope: str) -> None:
    pipe = shallow(load(tiny_pipeline))
    changes = apply_knobs(pipe, values({"compile.scope": scope, "graphs.denoiser": True}), CPU)
    assert changes["graphs.denoiser"] == "FluxTransformer2DModel: one CUDA graph for each shape of the inputs"
    for _ in range(2):
        assert np.allclose(draw(pipe, "flux", 4), untouched, atol=1e-5)
    assert pipe.transformer._compiled_call_impl.recorded == 1


@pytest.mark.usefixtures("recorded")
def test_guidance_keeps_both_outputs_of_a_step(tiny_pipeline: Path) -> None:
    pipe = shallow(load(tiny_pipeline))
    expected = draw(pipe, "flux", 3, **GUIDED)
    apply_knobs(pipe, values({"graphs.denoiser": True}), CPU)
    assert np.allclose(draw(pipe, "flux", 3, **GUIDED), expected, atol=1e-5)
    assert pipe.transformer._compiled_call_impl.recorded == 1


@pytest.mark.usefixtures("recorded", "only_dynamo")
def test_the_step_is_replayed_with_the_denoiser(tiny_pipeline: Path, untouched: Any) -> None:
    pipe = shallow(load(tiny_pipeline))
    apply_knobs(pipe, values({**STEPPED, "graphs.denoiser": True}), CPU)
    for steps in (4, 4, 6):
        images = draw(pipe, "flux", steps)
        assert steps != 4 or np.allclose(images, untouched, atol=1e-5)
    assert pipe.transformer._compiled_call_impl.call.recorded == 1


@pytest.mark.usefixtures("recorded")
def test_both_denoisers_of_a_pipeline_are_replayed(pipeline_folder: Callable[[str], Path]) -> None:
    pipe = load(pipeline_folder("wan22"))
    expected = draw(pipe, "wan22", 3)
    apply_knobs(pipe, values({"graphs.denoiser": True}), CPU)
    assert np.allclose(draw(pipe, "wan22", 3), expected, atol=1e-5)
    assert [part._compiled_call_impl.recorded for part in (pipe.transformer, pipe.transformer_2)] == [1, 1]


def test_no_denoiser_no_effect() -> None:
    with pytest.raises(NoEffect, match="no denoiser"):
        KNOBS["graphs.denoiser"].apply(SimpleNamespace(), values({"graphs.denoiser": True}))


@pytest.mark.parametrize(
    ("different", "reason"),
    [
        ({"compile.mode": "reduce-overhead"}, "captures CUDA graphs itself"),
        ({"compile.mode": "max-autotune"}, "captures CUDA graphs itself"),
        ({"compile.backend": "tensorrt"}, "stream of their own"),
        ({"cache.kind": "first-block"}, "a cache decides"),
        ({"quantization.scheme": "fp8-dynamic-row"}, "fp8 rows"),
        ({"memory.group_offload": True}, "fixed addresses"),
        ({"compile.mode": "max-autotune-no-cudagraphs"}, None),
        ({"compile.scope": "none"}, None),
    ],
)
def test_what_cannot_be_replayed_says_why(different: dict[str, Value], reason: str | None) -> None:
    given: Values = {"compile.scope": "full", "graphs.denoiser": True, **different}
    found = KNOBS["graphs.denoiser"].conflict_reason(given, kind())
    assert (found is None) if reason is None else (reason in str(found))
    assert KNOBS["graphs.denoiser"].conflict_reason({**given, "graphs.denoiser": False}, kind()) is None


def test_cuda_graphs_need_a_gpu() -> None:
    assert "this is a CPU" in str(KNOBS["graphs.denoiser"].unavailable_reason(True, CPU, kind()))
    assert KNOBS["graphs.denoiser"].unavailable_reason(True, GPU, kind()) is None


@pytest.mark.parametrize(
    ("different", "replays"),
    [
        ({}, False), ({"compile.mode": "default"}, False), ({"compile.mode": "max-autotune-no-cudagraphs"}, False),
        ({"compile.mode": "reduce-overhead"}, True), ({"compile.mode": "max-autotune"}, True),
        ({"graphs.denoiser": True}, True), ({"graphs.denoiser": False}, False),
    ],
)  # fmt: skip
def test_who_hides_what_a_call_allocates(different: Values, replays: bool) -> None:
    assert replays_cuda_graphs(different) is replays


# ---- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize(
    "different",
    [
        {"graphs.denoiser": True},
        {"compile.scope": "regional", "graphs.denoiser": True},
        {"compile.scope": "full", "graphs.denoiser": True},
        {**STEPPED, "graphs.denoiser": True},
        {**STEPPED, "compile.mode": "reduce-overhead"},
        STEPPED,
    ],
    ids=str,
)
def test_a_gpu_draws_the_same_from_its_graphs(tiny_pipeline: Path, different: Values) -> None:
    pipe = load(tiny_pipeline, "cuda")
    plain = draw(pipe, "flux", 4)
    apply_knobs(pipe, {**values(different), **different}, CPU)
    for _ in range(3):
        assert np.allclose(draw(pipe, "flux", 4), plain, atol=0.01)


@pytest.mark.gpu
def test_a_gpu_launches_one_graph_a_call(tiny_pipeline: Path) -> None:
    import torch
    from torch.profiler import ProfilerActivity, profile

    pipe = load(tiny_pipeline, "cuda")
    expected = draw(pipe, "flux", 4, **GUIDED)
    apply_knobs(pipe, values({"graphs.denoiser": True}), CPU)
    draw(pipe, "flux", 4, **GUIDED)
    assert len(pipe.transformer._compiled_call_impl._captured) == 1
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        images = draw(pipe, "flux", 4, **GUIDED)
        torch.cuda.synchronize()
    assert np.allclose(images, expected, atol=0.01)
    assert sum(event.count for event in profiler.key_averages() if event.key == "cudaGraphLaunch") == 8


def wide_denoiser() -> Any:
    """A denoiser of FLUX whose products are wide enough to be quantized."""
    import torch
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=64, num_attention_heads=8,
        joint_attention_dim=512, pooled_projection_dim=64, axes_dims_rope=(16, 24, 24),
    )  # fmt: skip
    return model.to("cuda", torch.bfloat16).eval()


@pytest.mark.gpu
@pytest.mark.parametrize("scope", ["regional", "full"])
@pytest.mark.parametrize("scheme", ["fp8-dynamic-tensor", "int8-dynamic"])
def test_quantized_products_replay_to_the_bit(scheme: str, scope: str) -> None:
    import torch

    pytest.importorskip("torchao")
    from torchao.quantization import quantize_

    denoiser = wide_denoiser()
    quantize_(denoiser, CONFIGS[scheme](), filter_fn=lambda module, name: "blocks" in name and is_linear(module))
    if scope == "regional":
        denoiser.compile_repeated_blocks(fullgraph=True)
    else:
        denoiser.compile(fullgraph=True)

    def inputs(seed: int) -> dict[str, Any]:
        random = torch.Generator("cuda").manual_seed(seed)
        shapes = {"hidden_states": (1, 256, 16), "encoder_hidden_states": (1, 64, 512), "pooled_projections": (1, 64)}
        made = {name: torch.randn(shape, generator=random, device="cuda").bfloat16() for name, shape in shapes.items()}
        ids = {name: torch.zeros(count, 3, device="cuda") for name, count in (("img_ids", 256), ("txt_ids", 64))}
        return {**made, **ids, "timestep": torch.tensor([0.1 * seed], device="cuda").bfloat16()}

    with torch.no_grad():
        expected = [denoiser(**inputs(seed), return_dict=False)[0].clone() for seed in range(6)]
        replayed = CapturedCall(denoiser._compiled_call_impl or denoiser._call_impl, denoiser.device)
        for seed in (*range(6), 3, 0):
            found = replayed(**inputs(seed), return_dict=False)[0]
            torch.cuda.synchronize()
            assert torch.equal(found, expected[seed]), f"input {seed}"
    assert not torch.equal(expected[0], expected[1])


def is_linear(module: Any) -> bool:
    return type(module).__name__ == "Linear"


REFUSED = """
import torch
from tuner.knobs.graphs import CapturedCall
try:
    CapturedCall(lambda x: x * x.sum().item(), "cuda")(torch.ones(4, device="cuda"))
except RuntimeError:
    print("refused")
"""


@pytest.mark.gpu
def test_a_sync_inside_the_denoiser_cannot_be_captured() -> None:
    # In a process of its own: a capture that failed leaves the device's random numbers unusable.
    said = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, timeout=120)
    assert said.stdout.strip() == "refused", said.stderr

"""torch.compile: each component really is compiled, by the compiler and in the mode that the candidate says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from drawing import CPU, GPU, draw, is_valid, load, shallow, values
from kinds import kind

from tuner.knobs import KNOBS, NoEffect, apply_knobs
from tuner.knobs.compile import clone_outputs, compile_options
from tuner.records.codec import Value, Values
from tuner.trace import dynamo

pytestmark = pytest.mark.usefixtures("process_state")


def candidate(**different: Value) -> Values:
    """A candidate for a GPU, keywords with __ for the dot; what no knob here looks at is left out."""
    named = {name.replace("__", "."): value for name, value in different.items()}
    return {"compile.scope": "full", "precision.dtype": "bfloat16", **named}


@pytest.fixture(scope="module")
def untouched(tiny_pipeline: Path) -> Any:
    return draw(shallow(load(tiny_pipeline)), "flux")


def compiled(folder: Path, different: Values, *, steps: int = 2) -> tuple[Any, int]:
    """What a candidate draws, and how many graphs it compiled for that, none of them broken."""
    pipe = shallow(load(folder))
    log = dynamo.start_compile_log()
    chosen = values(different)
    assert {name: reason for name in chosen if (reason := KNOBS[name].conflict_reason(chosen, kind()))} == {}
    changes = apply_knobs(pipe, chosen, CPU)
    assert changes.keys() == different.keys()
    images = draw(pipe, "flux", steps)
    assert is_valid(images)
    assert log.read().breaks == ()
    return images, log.read().unique_graphs


@pytest.mark.usefixtures("only_dynamo")
@pytest.mark.parametrize(
    ("different", "graphs"),
    [
        pytest.param({"compile.scope": "full"}, 1, marks=pytest.mark.exhaustive),  # the last has all three
        pytest.param({"compile.text_encoders": True}, 2, marks=pytest.mark.exhaustive),
        pytest.param({"compile.vae": True}, 1, marks=pytest.mark.exhaustive),
        ({"compile.scope": "full", "compile.text_encoders": True, "compile.vae": True}, 4),
    ],
    ids=str,
)
def test_each_component_is_compiled_in_one_graph_and_draws_the_same(
    tiny_pipeline: Path, untouched: Any, different: Values, graphs: int
) -> None:
    images, count = compiled(tiny_pipeline, different)
    assert count == graphs
    assert np.allclose(images, untouched, atol=1e-5)


@pytest.mark.usefixtures("only_dynamo")
@pytest.mark.parametrize(("dynamic", "graphs"), [pytest.param(False, 2, marks=pytest.mark.exhaustive), (True, 1)])
def test_dynamic_code_serves_every_size_and_draws_the_same(tiny_pipeline: Path, dynamic: bool, graphs: int) -> None:
    """One graph tells dynamic code from any other: torch makes a second one for a second size unless it is asked for
    dynamic code, which is tried with -m exhaustive."""
    pipe = shallow(load(tiny_pipeline))
    expected = [draw(pipe, "flux", height=size, width=size) for size in (48, 80)]
    log = dynamo.start_compile_log()
    apply_knobs(pipe, values({"compile.scope": "full", "compile.dynamic": dynamic}), CPU)
    for size, untouched in zip((48, 80), expected, strict=True):
        assert np.allclose(draw(pipe, "flux", height=size, width=size), untouched, atol=1e-5)
    assert (log.read().unique_graphs, log.read().breaks) == (graphs, ())


def test_a_pipeline_without_the_component_has_nothing_to_compile() -> None:
    for name in ("compile.text_encoders", "compile.vae"):
        with pytest.raises(NoEffect, match="the pipeline has no"):
            KNOBS[name].apply(SimpleNamespace(), {name: True})
    bare = msgspec.structs.replace(kind(), components={"transformer": "FluxTransformer2DModel"})
    assert "no text encoder" in str(KNOBS["compile.text_encoders"].unavailable_reason(True, CPU, bare))
    assert "no VAE" in str(KNOBS["compile.vae"].unavailable_reason(True, CPU, bare))


def test_only_components_that_the_pipeline_calls_as_a_whole_are_compiled() -> None:
    partial = msgspec.structs.replace(
        kind(), pipeline_class="Ideogram4Pipeline", components={"text_encoder": "Qwen3VLModel", "vae": "AutoencoderKL"}
    )
    assert "only parts of it" in str(KNOBS["compile.text_encoders"].unavailable_reason(True, CPU, partial))
    pixels = msgspec.structs.replace(partial, pipeline_class="PRXPixelPipeline")
    assert "never calls vae.decode" in str(KNOBS["compile.vae"].unavailable_reason(True, CPU, pixels))


def test_nothing_is_compiled_without_a_compiler() -> None:
    encoders = msgspec.structs.replace(kind(), components={"text_encoder": "CLIPTextModel", "vae": "AutoencoderKL"})
    no_gcc = msgspec.structs.replace(CPU, cpp_compiler=None)
    no_triton = msgspec.structs.replace(GPU, libraries={"torch": "2.13.0"})
    for name, value in (("compile.scope", "full"), ("compile.text_encoders", True), ("compile.vae", True)):
        assert "install g++" in str(KNOBS[name].unavailable_reason(value, no_gcc, encoders))
        assert "pip install triton" in str(KNOBS[name].unavailable_reason(value, no_triton, encoders))
        assert KNOBS[name].unavailable_reason(value, CPU, encoders) is None


@pytest.mark.parametrize(
    ("different", "reason"),
    [
        ({"compile__mode": "max-autotune", "compile__scope": "regional"}, "overwrite each other"),
        ({"compile__mode": "max-autotune", "cache__kind": "first-block"}, "a cache decides"),
        ({"compile__mode": "max-autotune", "quantization__scheme": "fp8-dynamic-row"}, "fp8 rows"),
        ({"compile__mode": "max-autotune", "attention__backend": "sage"}, "SageAttention"),
        ({"compile__mode": "reduce-overhead", "memory__group_offload": True}, "fixed addresses"),
        ({"compile__vae": True, "vae__tiling": True}, "tiles differ"),
        ({"compile__text_encoders": True, "memory__group_offload": True}, "offloading"),
        ({"compile__mode": "max-autotune"}, None),
        ({"compile__mode": "max-autotune-no-cudagraphs", "compile__scope": "regional"}, None),
    ],
)
def test_what_does_not_go_together_says_why(different: dict[str, Value], reason: str | None) -> None:
    given = candidate(**different)
    found = [
        why for name in given if name.startswith("compile.") and (why := KNOBS[name].conflict_reason(given, kind()))
    ]
    assert len(found) == (0 if reason is None else 1)
    assert reason is None or reason in found[0]


@pytest.mark.parametrize("pipeline_class", ["QwenImagePipeline", "ZImagePipeline"])
@pytest.mark.parametrize("scope", ["regional", "full"])
def test_prompts_that_are_not_padded_need_code_for_any_length(pipeline_class: str, scope: str) -> None:
    def reason(name: str = pipeline_class, **different: Value) -> str | None:
        return KNOBS["compile.scope"].conflict_reason(candidate(compile__scope=scope, **different), kind(name))

    assert "compile.dynamic=true" in str(reason())
    assert reason(compile__dynamic=True) is None
    assert reason("FluxPipeline") is None
    assert KNOBS["compile.scope"].conflict_reason(candidate(compile__scope="none"), kind(pipeline_class)) is None


def test_encoders_of_prompts_that_are_not_padded_are_not_compiled() -> None:
    knob = KNOBS["compile.text_encoders"]
    assert "does not pad its prompts" in str(knob.unavailable_reason(True, CPU, kind("QwenImagePipeline")))
    assert knob.unavailable_reason(True, CPU, kind("ZImagePipeline")) is None


@pytest.mark.usefixtures("only_dynamo")
@pytest.mark.parametrize(("dynamic", "most"), [pytest.param(False, 8, marks=pytest.mark.exhaustive), (True, 1)])
def test_the_reason_why_is_true(
    pipeline_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, dynamic: bool, most: int
) -> None:
    """Ten lengths: dynamo stops at its eighth graph and runs the rest uncompiled, and dynamic code serves them all."""
    pipe = load(pipeline_folder("qwen-image"))
    log = dynamo.start_compile_log()
    apply_knobs(pipe, values({"compile.scope": "full", "compile.dynamic": dynamic}), CPU)
    for words in range(1, 11):
        monkeypatch.setattr("drawing.PROMPTS", ("cat " * words,) * 2)
        draw(pipe, "qwen-image", 1)
    assert log.read().unique_graphs == most


def test_fp8_allows_no_break_unless_a_cache_makes_one() -> None:
    fp8 = {"quantization__scheme": "fp8-dynamic-tensor"}
    assert compile_options(candidate(**fp8)) == {"mode": "default", "dynamic": False, "fullgraph": True}
    assert compile_options(candidate(**fp8, cache__kind="first-block"))["fullgraph"] is False
    assert compile_options(candidate(**fp8, cache__kind="first-block", compile__scope="regional"))["fullgraph"] is True


def test_what_a_cuda_graph_gives_back_is_the_callers_own() -> None:
    import torch

    static = torch.zeros(2)

    def replay(value: float) -> tuple[Any, dict[str, Any]]:
        static.fill_(value)
        return static, {"same": static, "other": None}

    call = clone_outputs(replay)
    conditional, more = call(1.0)
    unconditional, _ = call(2.0)
    assert conditional.tolist() == more["same"].tolist() == [1, 1]
    assert unconditional.tolist() == [2, 2]
    assert more["other"] is None


@pytest.mark.parametrize(("mode", "copied"), [("default", False), ("reduce-overhead", True), ("max-autotune", True)])
def test_outputs_are_copied_in_the_modes_that_use_cuda_graphs(tiny_pipeline: Path, mode: str, copied: bool) -> None:
    pipe = load(tiny_pipeline)
    KNOBS["compile.scope"].apply(pipe, candidate(compile__mode=mode))
    assert ("clone_outputs" in pipe.transformer._compiled_call_impl.__qualname__) is copied


@pytest.mark.usefixtures("only_dynamo")
def test_copied_outputs_draw_the_same(tiny_pipeline: Path, untouched: Any) -> None:
    pipe = shallow(load(tiny_pipeline))
    KNOBS["compile.scope"].apply(pipe, candidate(compile__mode="reduce-overhead"))
    assert np.allclose(draw(pipe, "flux"), untouched, atol=1e-5)


# ---- TensorRT -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for torch_tensorrt's backend, which it registers when imported: runs the graph as it is, and keeps
    what it was given."""
    from torch._dynamo.backends import registry

    seen: list[dict[str, Any]] = []

    def backend(graph: Any, inputs: Any, **named: Any) -> Callable[..., Any]:
        seen.append(named)
        return graph.forward

    monkeypatch.setitem(registry._COMPILER_FNS, "tensorrt", backend)
    monkeypatch.setitem(registry._BACKENDS, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", ModuleType("torch_tensorrt"))
    return seen


def test_tensorrt_compiles_the_denoiser_and_hides_no_failure(
    tiny_pipeline: Path, untouched: Any, tensorrt: list[dict[str, Any]]
) -> None:
    images, graphs = compiled(tiny_pipeline, {"compile.scope": "full", "compile.backend": "tensorrt"})
    assert graphs == len(tensorrt) == 1
    assert tensorrt[0]["options"] == {"use_explicit_typing": True, "pass_through_build_failures": True}
    assert np.allclose(images, untouched, atol=1e-5)


def test_without_torch_tensorrt_the_remedy_fits_the_torch_that_is_there() -> None:
    knob = KNOBS["compile.backend"]
    assert "torch-tensorrt==2.13.*" in str(knob.unavailable_reason("tensorrt", GPU, kind()))
    assert "NVIDIA" in str(knob.unavailable_reason("tensorrt", CPU, kind()))
    there = msgspec.structs.replace(GPU, libraries=GPU.libraries | {"torch-tensorrt": "2.13.0"})
    assert knob.unavailable_reason("tensorrt", there, kind()) is None


@pytest.mark.parametrize(
    "different",
    [
        {"compile__scope": "regional"}, {"quantization__scheme": "int8-weight-only"}, {"attention__backend": "flex"},
        {"cache__kind": "first-block"}, {"memory__layerwise_casting": True},
    ],
)  # fmt: skip
def test_tensorrt_refuses_what_it_cannot_build(different: dict[str, Value]) -> None:
    assert KNOBS["compile.backend"].conflict_reason(candidate(compile__backend="inductor", **different), kind()) is None
    assert KNOBS["compile.backend"].conflict_reason(candidate(compile__backend="tensorrt", **different), kind())


def test_inductors_knobs_mean_nothing_to_tensorrt() -> None:
    chosen = values({"compile.scope": "full", "compile.backend": "tensorrt"})
    assert not [name for name in chosen if name.startswith(("inductor.", "graphs.scheduler")) or name == "compile.mode"]


# ---- where inductor really compiles ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "different",
    [{"compile.text_encoders": True, "compile.vae": True}, {"compile.scope": "regional", "compile.dynamic": True}],
    ids=str,
)
def test_inductor_draws_the_same(tiny_pipeline: Path, untouched: Any, different: Values) -> None:
    images, _ = compiled(tiny_pipeline, different)
    assert np.allclose(images, untouched, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_guidance_keeps_both_of_a_steps_outputs_on_a_gpu(tiny_pipeline: Path, mode: str) -> None:
    from torch._inductor import config

    guided = {"negative_prompt": ["blue", "green"], "true_cfg_scale": 3.0}
    pipe = load(tiny_pipeline, "cuda")
    plain = draw(pipe, "flux", 3, **guided)
    KNOBS["compile.scope"].apply(pipe, candidate(compile__mode=mode))
    with config.patch(max_autotune_gemm_backends="ATEN"):  # minutes of tuning that have nothing to do with outputs
        for _ in range(3):
            assert np.allclose(draw(pipe, "flux", 3, **guided), plain, atol=0.02)

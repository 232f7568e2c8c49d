"""The contract of every knob: what it takes, what it refuses, and that it does to a pipeline what it says."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from kinds import COMPONENTS, kind

from tuner.hardware.environment import LIBRARIES, detect
from tuner.knobs import KNOBS, NoEffect, allowances, apply_knobs, baseline, changed
from tuner.knobs.attention import BACKENDS
from tuner.model import pipeline
from tuner.quality.similarity import psnr_and_ssim
from tuner.records.codec import Value, Values
from tuner.records.machine import Environment
from tuner.records.model import Model, Workload

CPU = detect("cpu")
WORKLOAD = Workload(
    prompts=("a red circle", "a blue square"), seeds=(0, 1), height=32, width=32, max_sequence_length=16
)
STEPS = 2


def gpu(capability: str, **libraries: str | None) -> Environment:
    installed = {"torch": "2.13.0", "torchao": "0.18.0", "triton": "3.5.0", **libraries}
    return Environment(
        device="cuda", device_name="a GPU", compute_capability=capability, device_memory_bytes=2**34, driver="580",
        cpu_count=8, cpp_compiler="/usr/bin/g++", python="3.11.7", platform="Linux", libraries=installed,
    )  # fmt: skip


def equipped(environment: Environment) -> Environment:
    """The same machine with every package that switches something on, in versions that are new enough."""
    libraries = {name: environment.libraries.get(name) or "99" for name in LIBRARIES}
    libraries["kernels"] = None  # with that package bitsandbytes fetches code
    return msgspec.structs.replace(environment, libraries=libraries)


BARE = [CPU, gpu("7.5"), gpu("9.0"), gpu("12.0")]
EQUIPPED = [equipped(here) for here in (CPU, *map(gpu, ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")))]
EIGHT_GPUS = msgspec.structs.replace(equipped(gpu("9.0")), devices=8)
ENVIRONMENTS = [*BARE, *EQUIPPED, EIGHT_GPUS]
KINDS = {name: kind(name) for name in COMPONENTS}

EVERY_VALUE = [(name, value) for name, knob in KNOBS.items() for value in knob.choices]
NOWHERE = {"nunchaku"} | {name for name, backend in BACKENDS.items() if backend.refused}
"""Values that no listed machine can have: code from the Hub, other hardware, weights that were quantised before."""
OPEN = ("quantization.gguf_file", "vae.tiny", "lora.file")
"""Knobs whose values are the user's own files."""
JUNK: list[Any] = [None, [], ["none"], {}, b"none", ("none",), "", "None", "null", "nan", " none", "NONE", -1, -0.5,
                   float("nan"), float("inf"), 10**30]  # fmt: skip
"""Never a value of any knob."""

pytestmark = pytest.mark.usefixtures("process_state")


def candidate(different: Values, environment: Environment = CPU) -> Values:
    """The active knobs' values: the given ones, else the baseline's."""
    values: Values = {}
    for name, knob in KNOBS.items():
        if knob.is_active(values):
            values[name] = different.get(name, knob.baseline(environment))
    return values


def one_line(reason: str | None) -> bool:
    return reason is None or (bool(reason.strip()) and "\n" not in reason and len(reason) < 300)


# ---- what every knob promises ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KNOBS)
def test_a_knob_says_what_it_is(name: str) -> None:
    knob = KNOBS[name]
    assert knob.name == name
    assert len(knob.choices) >= (1 if name in OPEN else 2)
    about = str(type(knob).__doc__).splitlines()[0]
    assert 15 < len(about) < 120
    assert about.endswith((".", ":")) or "." in about


@pytest.mark.parametrize("name", KNOBS)
def test_the_baseline_is_right_available_and_allowed(name: str) -> None:
    for environment in ENVIRONMENTS:
        value = KNOBS[name].baseline(environment)
        assert KNOBS[name].invalid_reason(value) is None
        for known in KINDS.values():
            assert KNOBS[name].unavailable_reason(value, environment, known) is None
        untouched = baseline(environment)
        assert [other for other in untouched if KNOBS[other].conflict_reason(untouched, kind())] == []


@pytest.mark.parametrize(("name", "value"), EVERY_VALUE)
def test_a_value_is_right_can_be_had_somewhere_and_its_absence_is_explained(name: str, value: Value) -> None:
    knob = KNOBS[name]
    assert knob.invalid_reason(value) is None
    reasons = {knob.unavailable_reason(value, here, known) for here in ENVIRONMENTS for known in KINDS.values()}
    assert all(map(one_line, reasons))
    if value not in NOWHERE:
        assert None in reasons, reasons


@pytest.mark.parametrize("name", KNOBS)
def test_junk_is_wrong_with_a_reason(name: str) -> None:
    numbers = [True, False, "28"] if isinstance(KNOBS[name].choices[-1], int | float) else [2.5, 7]
    for value in [*JUNK, *([] if isinstance(KNOBS[name].choices[-1], bool) else numbers)]:
        reason = KNOBS[name].invalid_reason(value)
        assert reason, f"{name} takes {value!r}"
        assert reason.startswith("must be ")
        assert one_line(reason)


@pytest.mark.parametrize("name", ["steps", "batch"])
def test_counts_are_whole(name: str) -> None:
    assert KNOBS[name].invalid_reason(1) is None
    assert KNOBS[name].invalid_reason(1.0) is not None


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda e: f"{e.compute_capability}")
def test_conflicts_are_explained_in_one_line(environment: Environment) -> None:
    rng = random.Random(0)
    for _ in range(300):
        values = candidate({name: rng.choice(knob.choices) for name, knob in KNOBS.items()}, environment)
        for name in values:
            assert one_line(KNOBS[name].conflict_reason(values, kind()))


@pytest.mark.parametrize(
    ("capability", "scheme", "available"),
    [("9.0", "fp8-dynamic-row", True), ("8.9", "fp8-dynamic-row", True), ("8.6", "fp8-dynamic-row", False),
     ("12.0", "fp8-dynamic-tensor", True), ("7.5", "fp8-weight-only", False), ("8.0", "int8-dynamic", True)],
)  # fmt: skip
def test_fp8_is_there_from_capability_89_on(capability: str, scheme: str, available: bool) -> None:
    reason = KNOBS["quantization.scheme"].unavailable_reason(scheme, gpu(capability), kind())
    assert (reason is None) is available


@pytest.mark.parametrize(("capability", "available"), [("7.5", False), ("8.0", True), ("9.0", True), ("10.0", True)])
def test_bfloat16_is_there_from_capability_80_on(capability: str, available: bool) -> None:
    reason = KNOBS["precision.dtype"].unavailable_reason("bfloat16", gpu(capability), kind())
    assert (reason is None) is available


def test_what_is_not_installed_names_its_remedy() -> None:
    reasons = [
        KNOBS["compile.scope"].unavailable_reason("full", gpu("9.0", triton=None), kind()),
        KNOBS["quantization.scheme"].unavailable_reason("int8-dynamic", gpu("9.0", torchao=None), kind()),
    ]
    assert all(reason and "pip install" in reason for reason in reasons)


def test_only_what_differs_counts_as_changed() -> None:
    assert changed(baseline(CPU), CPU) == {}
    assert changed(candidate({"fuse_qkv": True, "steps": 28}), CPU) == {"fuse_qkv": True}
    assert changed({"precision.dtype": "bfloat16"}, gpu("9.0")) == {}


def test_only_caches_and_offloading_declare_syncs() -> None:
    declared = allowances(candidate({"cache.kind": "first-block"}))
    assert [(a.kind, a.count_per_step, a.knob) for a in declared] == [("device sync", 2, "cache.kind")]
    rng = random.Random(0)
    declaring = {"cache.kind", "memory.group_offload"}
    for _ in range(200):
        some = {name: rng.choice(knob.choices) for name, knob in KNOBS.items() if name not in declaring}
        values = candidate(some)
        assert allowances(values) == (), "nothing is excused that nobody declared"


def test_the_order_of_application_is_the_one_that_works() -> None:
    order = {name: knob.order for name, knob in KNOBS.items()}
    assert order["precision.dtype"] < order["fuse_qkv"] < order["quantization.scheme"] < order["attention.backend"]
    assert order["attention.backend"] < order["compile.scope"] < order["cache.kind"]
    assert order["inductor.freezing"] < order["compile.scope"]


# ---- on a pipeline --------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(tiny_pipeline: Path) -> Callable[[], Any]:
    """A loader of the untouched tiny pipeline, in float32."""
    model = Model(source=str(tiny_pipeline), revision=None, pipeline_class="FluxPipeline", scorer="demo")
    return lambda: pipeline.load(model, CPU, "float32")


@pytest.fixture(scope="module")
def untouched(tiny_pipeline: Path) -> Any:
    """What the untouched pipeline draws."""
    model = Model(source=str(tiny_pipeline), revision=None, pipeline_class="FluxPipeline", scorer="demo")
    return draw(pipeline.load(model, CPU, "float32"))


def draw(pipe: Any, steps: int = STEPS) -> Any:
    return pipeline.generate(pipe, WORKLOAD, [0, 1], {"num_inference_steps": steps}, output_type="np")


def is_valid(images: Any) -> bool:
    return bool(np.isfinite(images).all() and images.std() > 0.01 and images.shape == (2, 32, 32, 3))


def test_untouched_the_pipeline_draws_the_same_twice(fresh: Callable[[], Any], untouched: Any) -> None:
    assert is_valid(untouched)
    pipe = fresh()
    assert apply_knobs(pipe, baseline(CPU), CPU) == {}
    assert np.array_equal(draw(pipe), untouched)


@pytest.mark.usefixtures("only_dynamo")
def test_what_is_reported_is_what_was_done(fresh: Callable[[], Any]) -> None:
    import torch
    from torch._inductor import config

    pipe = fresh()
    different: Values = {
        "fuse_qkv": True, "attention.backend": "_native_math", "quantization.scheme": "int8-weight-only",
        "precision.dtype": "bfloat16", "compile.scope": "full", "inductor.freezing": True,
    }  # fmt: skip
    changes = apply_knobs(pipe, candidate(different), CPU)
    blocks = [*pipe.transformer.transformer_blocks, *pipe.transformer.single_transformer_blocks]
    assert changes["fuse_qkv"] == f"{len(blocks)} attention layers fused"
    assert all(block.attn.fused_projections for block in blocks)
    assert changes["attention.backend"] == f"{len(blocks)} attention processors use _native_math"
    assert {str(block.attn.processor._attention_backend.value) for block in blocks} == {"_native_math"}
    assert config.freezing is True
    assert pipe.transformer._compiled_call_impl is not None
    assert pipe.vae.dtype == pipe.text_encoder.dtype == torch.bfloat16
    quantized = [
        name for name, module in pipe.transformer.named_modules()
        if isinstance(module, torch.nn.Linear) and type(module.weight).__module__.startswith("torchao")
    ]  # fmt: skip
    assert changes["quantization.scheme"].startswith(f"{len(quantized)} of ")
    assert any("to_qkv" in name for name in quantized), "the fused projections are quantized too"
    assert not [name for name in quantized if "norm" in name or "embed" in name or name == "proj_out"]


def test_a_higher_threshold_skips_more(fresh: Callable[[], Any]) -> None:
    def blocks_run(threshold: float) -> int:
        pipe = fresh()
        apply_knobs(pipe, candidate({"cache.kind": "first-block", "cache.threshold": threshold}), CPU)
        runs: list[int] = []
        forward = pipe.transformer.single_transformer_blocks[0].attn.forward

        def counted(*arguments: Any, **named: Any) -> Any:
            runs.append(1)
            return forward(*arguments, **named)

        pipe.transformer.single_transformer_blocks[0].attn.forward = counted
        assert is_valid(draw(pipe, steps=8))
        return len(runs)

    assert 8 == blocks_run(1e-9) > blocks_run(1.9) >= 1


@pytest.mark.usefixtures("only_dynamo")
@pytest.mark.parametrize(
    "different",
    [
        {"compile.scope": "regional"},
        {"attention.backend": "_native_math"},
        {"quantization.scheme": "int8-weight-only"},
        {"fuse_qkv": True},
        {"cache.kind": "first-block"},
    ],
)
def test_what_changes_nothing_says_so(different: Values) -> None:
    from diffusers import FluxTransformer2DModel

    blockless = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=0, num_single_layers=0, attention_head_dim=32, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(8, 12, 12),
    )  # fmt: skip
    name = next(iter(different))
    with pytest.raises(NoEffect, match=f"^{name}="):
        pipe = SimpleNamespace(transformer=blockless, scheduler=SimpleNamespace(step=len, set_timesteps=len))
        apply_knobs(pipe, candidate(different), CPU)


def test_a_model_without_processors_takes_no_backend() -> None:
    from diffusers import AutoencoderTiny

    convolutions = AutoencoderTiny(
        encoder_block_out_channels=(16, 16), decoder_block_out_channels=(16, 16), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )  # fmt: skip
    pipe = SimpleNamespace(transformer=convolutions)
    with pytest.raises(NoEffect, match="no attention processor"):
        KNOBS["attention.backend"].apply(pipe, {"attention.backend": "_native_math"})
    with pytest.raises(NoEffect, match="no linear layer"):
        KNOBS["quantization.scheme"].apply(pipe, {"quantization.scheme": "int8-weight-only"})


def test_a_flag_that_stands_already_is_as_good_as_set() -> None:
    from torch._inductor import config

    config.freezing = True
    assert KNOBS["inductor.freezing"].apply(None, {"inductor.freezing": True}).endswith("= True already")


@pytest.mark.parametrize("name", ["steps", "batch"])
def test_a_call_knob_is_not_applied_to_a_pipeline(name: str) -> None:
    assert apply_knobs(None, candidate({name: 3}), CPU) == {}
    with pytest.raises(TypeError, match="acts on a call"):
        KNOBS[name].apply(None, {name: 3})


def test_quantizing_before_fusing_is_what_the_order_prevents(fresh: Callable[[], Any]) -> None:
    pipe = fresh()
    KNOBS["quantization.scheme"].apply(pipe, {"quantization.scheme": "int8-weight-only"})
    with pytest.raises(Exception):  # noqa: B017  (torchao's, of whatever type)
        KNOBS["fuse_qkv"].apply(pipe, {"fuse_qkv": True})
        draw(pipe)


# ---- compiling ------------------------------------------------------------------------------------------------------


def breaks_of(pipe: Any, different: Values) -> int:
    """How many graph breaks the first calls of a candidate have."""
    from tuner.trace import dynamo

    log = dynamo.start_compile_log()
    apply_knobs(pipe, candidate(different), CPU)
    assert is_valid(draw(pipe, steps=3))
    seen = log.read()
    assert seen.unique_graphs >= 1, "something was compiled"
    return len(seen.breaks)


@pytest.mark.usefixtures("only_dynamo")
@pytest.mark.parametrize(
    ("scope", "cache", "broken"),
    [
        pytest.param("regional", "none", False, marks=pytest.mark.exhaustive),
        pytest.param("full", "none", False, marks=pytest.mark.exhaustive),  # as in tests/knobs/test_compile.py
        pytest.param("regional", "first-block", False, marks=pytest.mark.exhaustive),  # as in tests/knobs/test_cache.py
        pytest.param(
            "full", "first-block", True, marks=pytest.mark.exhaustive
        ),  # as in tests/faults/test_real_worker.py
    ],
)
def test_only_a_cache_inside_a_whole_graph_breaks_it(
    fresh: Callable[[], Any], scope: str, cache: str, broken: bool
) -> None:
    different: Values = {"compile.scope": scope, "cache.kind": cache, "cache.threshold": 0.2}
    assert (breaks_of(fresh(), different) > 0) is broken


@pytest.mark.exhaustive  # test_end_to_end.py compiles each time
@pytest.mark.parametrize(
    "different",
    [
        {
            "fuse_qkv": True, "quantization.scheme": "int8-dynamic", "compile.scope": "regional",
            "cache.kind": "first-block",
        },
        {"compile.scope": "full", "inductor.freezing": True, "inductor.aggressive_fusion": True},
    ],
    ids=["fused, quantized, compiled, cached", "frozen whole graph"],
)  # fmt: skip
def test_knobs_work_together_when_inductor_really_compiles(
    fresh: Callable[[], Any], untouched: Any, different: Values
) -> None:
    pipe = fresh()
    changes = apply_knobs(pipe, candidate(different), CPU)
    assert set(changes) == set(different)
    assert list(changes) == sorted(changes, key=lambda name: KNOBS[name].order)
    images = draw(pipe)
    assert is_valid(images)
    assert min(psnr_and_ssim(images, untouched)[0]) > (20 if "quantization.scheme" in different else 70)

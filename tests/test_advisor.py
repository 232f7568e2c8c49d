"""The advisor: every knob has advice, bounds hold what was measured, and nothing useful is ruled out."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from kinds import kind

from tuner.advisor import call as calls
from tuner.advisor.advise import EFFECTS, advise, settings_of
from tuner.advisor.call import Call, call_of
from tuner.advisor.skipping import SKIPPED_COST, cache_kind, taylorseer_steps
from tuner.hardware import environment
from tuner.knobs import KNOBS
from tuner.records.advice import Advice, Expectation
from tuner.records.codec import Value, Values, decode, encode, read
from tuner.records.outcome import Outcome
from tuner.space import reader
from tuner.space.candidates import SearchSpace

DATA = Path(__file__).resolve().parent / "data" / "advisor"
SPACES = Path(__file__).resolve().parent.parent / "search_spaces"
CPU = environment.detect("cpu")
H200 = msgspec.structs.replace(
    CPU, device="cuda", device_name="NVIDIA H200", compute_capability="9.0",
    libraries={"torch": "2.11.0", "torchao": "0.18.0", "triton": "3.6.0"},
)  # fmt: skip
FLUX = read(DATA / "flux_h200.json", Outcome)
"""FLUX.1-dev untouched at its real size on an H200, 2026-11-29, as a study recorded it; the FLOP by class were
computed from its dimensions."""

USER_VALUES: Values = {"vae.tiny": "/tiny", "lora.file": "/lora", "quantization.gguf_file": "/q.gguf"}
NOISE = 0.002


def every_value(pipeline_class: str = "FluxPipeline", file: str = "flux.yaml") -> SearchSpace:
    """A space that searches every value of every knob, whether it works here or not."""
    space = reader.load(SPACES / file, kind(pipeline_class), H200, [], "clip_score")
    user = {name: (value,) for name, value in USER_VALUES.items()}
    knobs = {
        name: tuple(dict.fromkeys((space.baseline[name], *knob.choices, *user.get(name, ()))))
        for name, knob in KNOBS.items()
    }
    return msgspec.structs.replace(space, knobs=knobs)


ALL = every_value()
ADVICE = advise(ALL, H200, FLUX, NOISE)


def of(name: str, value: Value, advice: Advice = ADVICE) -> Expectation:
    (found,) = [each for each in advice.expectations if (each.knob, each.value) == (name, value)]
    return found


# ---- the contract of every knob -------------------------------------------------------------------------------------


def test_every_knob_says_what_it_does() -> None:
    assert EFFECTS.keys() == KNOBS.keys(), "add the effect of a new knob to a table in tuner/advisor/"


@pytest.mark.parametrize(
    ("pipeline_class", "file"),
    [("StableDiffusionXLPipeline", "sdxl.yaml"), ("WanPipeline", "wan.yaml"), ("FluxPipeline", "flux.yaml")],
)
@pytest.mark.parametrize("device", [CPU, H200], ids=["cpu", "cuda"])
@pytest.mark.parametrize("known", ["all", "no roofline", "no trace"])
def test_every_value_has_advice(pipeline_class: str, file: str, device: Any, known: str) -> None:
    space, baseline, build = every_value(pipeline_class, file), FLUX, FLUX.build
    assert build is not None
    if known != "all":
        lost: dict[str, Any] = {"roofline": None} | ({"trace": None} if known == "no trace" else {})
        baseline = msgspec.structs.replace(FLUX, build=msgspec.structs.replace(build, **lost))
    advice = advise(space, device, baseline, NOISE)
    found = {(each.knob, each.value) for each in advice.expectations}
    assert found == set(settings_of(space))
    for each in advice.expectations:
        assert each.low <= each.ratio <= each.high and math.isfinite(each.high)
        assert each.bound is None or each.high <= each.bound * (1 + 1e-9)
        assert each.reason and "\n" not in each.reason
        assert each.reason.startswith("nothing is expected: ") == (each.low == each.high)
    assert decode(encode(advice), Advice, "here") == advice


def test_each_value_is_compared_with_what_it_needs() -> None:
    assert of("quantization.scheme", "fp8-dynamic-row").beside == {"compile.scope": "regional"}
    assert of("graphs.scheduler_step", True).beside == {"compile.scope": "full"}
    assert of("inductor.epilogue_fusion", False).beside == {
        "compile.scope": "regional", "compile.mode": "max-autotune-no-cudagraphs",
    }  # fmt: skip
    assert of("compile.vae", True).beside == {}


# ---- against what was measured --------------------------------------------------------------------------------------

STEP: tuple[tuple[str, Value, float], ...] = (
    ("compile.scope", "regional", 1.30), ("compile.scope", "full", 1.33), ("compile.mode", "reduce-overhead", 0.99),
    ("compile.mode", "max-autotune-no-cudagraphs", 1.00), ("compile.dynamic", True, 1.01),
    ("graphs.denoiser", True, 1.01),
    ("inductor.epilogue_fusion", False, 0.99), ("inductor.coordinate_descent_tuning", True, 1.02),
    ("inductor.aggressive_fusion", True, 0.99), ("inductor.max_autotune_gemm_backends", "ATEN", 1.01),
    ("inductor.max_autotune_gemm_backends", "TRITON", 0.90), ("attention.backend", "_native_flash", 0.89),
    ("attention.backend", "_native_cudnn", 0.97), ("attention.backend", "_native_efficient", 0.74),
    ("attention.backend", "_native_math", 0.23), ("attention.backend", "flex", 0.94),
    ("precision.dtype", "float16", 0.98),
    ("precision.dtype", "float32", 0.11), ("matmul.tf32", True, 2.86),
    ("quantization.scheme", "fp8-weight-only", 0.963),
    ("quantization.scheme", "fp8-dynamic-row", 1.33), ("quantization.scheme", "fp8-dynamic-tensor", 1.27),
    ("quantization.scheme", "fp8-static-tensor", 1.42),
    ("quantization.scheme", "int8-weight-only", 0.972), ("quantization.scheme", "int8-dynamic", 0.75),
    ("quantization.scheme", "int4-weight-only", 0.06), ("cache.kind", "mag", 2.19), ("cache.kind", "taylorseer", 1.84),
    ("fuse_qkv", True, 0.95), ("memory.layerwise_casting", True, 0.86), ("memory.group_offload", True, 0.34),
    ("text.sequence_length", 256, 1.04),
    ("text.sequence_length", 128, 1.09), ("text.sequence_length", 64, 1.10), ("steps", 14, 1.95), ("batch", 4, 0.98),
)  # fmt: skip
"""By how much a denoising step of FLUX.1-dev became faster (docs/knobs_h200.md, 2026-11-22). Steps: the whole
call. Weight-only schemes were measured in regional compile: the seconds they added are added to the untouched step."""

VAE: tuple[tuple[str, Value, float], ...] = (("compile.vae", True, 2.46), ("vae.channels_last", True, 0.66))
TEXT: tuple[tuple[str, Value, float], ...] = (("compile.text_encoders", True, 2.34),)

MEASUREMENT = 0.02
"""What a ratio of that table may be off by: two processes on two GPUs of a host."""


def call_without(found: Expectation) -> Call:
    """The untouched call, with what a value needs applied as it is expected to act."""
    call = call_of(FLUX)
    assert call is not None
    for name, value in found.beside.items():
        gain = of(name, value).ratio
        scale = call.steps_s / (call.seconds / gain - call.seconds + call.steps_s)
        call = with_faster_steps(call, scale)
    return call


def with_faster_steps(call: Call, speed_up: float) -> Call:
    parts = {part: s / speed_up if part in calls.STEP_PARTS else s for part, s in call.parts.items()}
    return Call(parts, call.host_s / speed_up)


def whole(found: Expectation, of_part: float, part: str) -> float:
    """The ratio of a whole call by that of one part of it."""
    call = call_without(found)
    seconds = call.steps_s if part == "steps" else call.parts[part]
    return call.seconds / (call.seconds - seconds + seconds / of_part)


MEASURED = [
    *((name, value, whole(of(name, value), ratio, "steps")) for name, value, ratio in STEP if name != "steps"),
    *((name, value, ratio) for name, value, ratio in STEP if name == "steps"),
    *((name, value, whole(of(name, value), ratio, calls.VAE)) for name, value, ratio in VAE),
    *((name, value, whole(of(name, value), ratio, calls.TEXT)) for name, value, ratio in TEXT),
]


@pytest.mark.parametrize(("interval", "measured_ms"), [(2, 96.4), (3, 80.6), (5, 63.8)])
def test_taylorseer_computes_the_steps_that_were_measured(interval: int, measured_ms: float) -> None:
    """Mean over 11 of 12 steps, without the first; 176.9 ms without a cache."""
    computed = len(taylorseer_steps(12, interval)) - 1
    assert computed / 11 == pytest.approx(measured_ms / 176.9, abs=0.005)


@pytest.mark.parametrize(("name", "value", "measured"), MEASURED)
def test_no_bound_was_exceeded(name: str, value: Value, measured: float) -> None:
    bound = of(name, value).bound
    assert bound is not None
    assert measured <= bound * (1 + MEASUREMENT)


def is_met(found: Expectation, measured: float) -> bool:
    """Whether an expectation is within 25 % of the log ratio, or within what the measurement may be off by."""
    error = abs(math.log(found.ratio / measured))
    return error <= max(0.25 * abs(math.log(measured)), MEASUREMENT)


def test_expectations_meet_what_was_measured() -> None:
    large = [(n, v, m) for n, v, m in MEASURED if abs(math.log(m)) > 0.03]
    met = [abs(math.log(of(n, v).ratio / m)) <= 0.25 * abs(math.log(m)) for n, v, m in large]
    assert sum(met) >= 0.8 * len(met), "of those that do something"
    missed = [f"{n}={v}: {of(n, v).ratio:.3f}, measured {m:.3f}" for n, v, m in MEASURED if not is_met(of(n, v), m)]
    assert len(missed) <= 0.2 * len(MEASURED), "\n".join(missed)
    inside = [of(n, v).low * (1 - MEASUREMENT) <= m <= of(n, v).high * (1 + MEASUREMENT) for n, v, m in MEASURED]
    assert sum(inside) >= 0.95 * len(inside)


# ---- SDXL -----------------------------------------------------------------------------------------------------------


SDXL = read(DATA / "sdxl_h200.json", Outcome)
"""SDXL untouched at its real size on an H200, 2026-12-01, as a study recorded it: its steps wait for the host."""

MEASURED_SDXL: list[tuple[str, Value, float]] = [
    ("compile.scope", "regional", 1.385),
    ("compile.scope", "full", 1.729),
    ("quantization.scheme", "fp8-static-tensor", 1.156),
    ("fuse_qkv", True, 1.034),
    ("denoiser.channels_last", True, 0.995),
    ("vae.channels_last", True, 1.015),
]
"""From whole studies of that day: of the untouched pipeline, of static fp8 beside a replayed graph, and of the others
beside a whole compile (docs/advisor.md)."""
SDXL_ADVICE = advise(every_value("StableDiffusionXLPipeline", "sdxl.yaml"), H200, SDXL, 0.03)
UNEVEN = 0.03
"""The untouched pipeline's processes differed by 4 to 7 %."""


@pytest.mark.parametrize(("name", "value", "measured"), MEASURED_SDXL)
def test_what_sdxl_gained_lies_in_what_was_expected(name: str, value: Value, measured: float) -> None:
    found = of(name, value, SDXL_ADVICE)
    assert found.low * (1 - UNEVEN) <= measured <= found.high * (1 + UNEVEN)
    assert found.bound is not None
    assert measured <= found.bound * (1 + UNEVEN)


def test_where_steps_wait_for_the_host_smaller_products_are_expected_to_gain_beside_a_graph() -> None:
    static = of("quantization.scheme", "fp8-static-tensor", SDXL_ADVICE)
    assert static.beside["graphs.denoiser"] is True
    assert static.low > 1.05
    assert "graphs.denoiser" not in of("compile.scope", "full", SDXL_ADVICE).beside, "it takes launches out itself"
    assert "graphs.denoiser" not in of("compile.vae", True, SDXL_ADVICE).beside, "it acts outside of the steps"
    for name, value in (("batch", 4), ("steps", 20), ("fuse_qkv", True), ("modulation.once", True)):
        assert "graphs.denoiser" not in of(name, value, SDXL_ADVICE).beside, "it has fewer launches itself"
    assert "graphs.denoiser" not in of("quantization.scheme", "fp8-dynamic-row", SDXL_ADVICE).beside, "they conflict"
    assert "graphs.denoiser" not in of("quantization.scheme", "fp8-static-tensor").beside, "FLUX waits for nothing"


# ---- other pipelines and devices ------------------------------------------------------------------------------------


def waiting(step_s: float, busy_s: float) -> Outcome:
    """FLUX's untouched trial, as if its steps took so long and the GPU worked for a part of that."""
    assert FLUX.build and FLUX.build.trace and FLUX.timing and FLUX.timing.components
    trace = FLUX.build.trace
    scale = busy_s / (sum(trace.classes.values()) * step_s)
    classes = {name: share * scale for name, share in trace.classes.items()}
    trace = msgspec.structs.replace(
        trace, step_ms=step_s * 1e3, classes=classes, host_wait_share=1 - busy_s / step_s, kernel_wait_share=0.0
    )
    parts = msgspec.structs.replace(FLUX.timing.components, denoiser_s=step_s * 28)
    return msgspec.structs.replace(
        FLUX,
        build=msgspec.structs.replace(FLUX.build, trace=trace),
        timing=msgspec.structs.replace(FLUX.timing, components=parts),
    )


def test_what_waits_for_the_host_gains_by_graphs_and_not_by_fp8() -> None:
    """SDXL on slow cores (docs/knobs_h200.md): a step of 91 ms, of which the GPU needs 41."""
    advice = advise(ALL, H200, waiting(0.091, 0.041), NOISE)
    assert of("graphs.denoiser", True, advice).ratio == pytest.approx(2.0, rel=0.1), "measured 2.24 a step"
    assert of("compile.scope", "full", advice).ratio > of("compile.scope", "regional", advice).ratio > 1.3
    assert of("quantization.scheme", "fp8-dynamic-row", advice).ratio < 1.0, "torchao's tensors cost the host more"


def test_an_attention_that_was_measured_decides() -> None:
    assert FLUX.build and FLUX.build.roofline
    known = msgspec.structs.replace(
        FLUX.build.roofline, attention_s={"native": 0.4e-3, "_native_flash": 0.3e-3, "_native_efficient": 1.6e-3}
    )
    advice = advise(
        ALL, H200, msgspec.structs.replace(FLUX, build=msgspec.structs.replace(FLUX.build, roofline=known)), 0
    )
    faster = of("attention.backend", "_native_flash", advice)
    assert 1.02 < faster.ratio < 1.05
    assert "0.300 ms" in faster.reason
    assert of("attention.backend", "_native_efficient", advice).bound == pytest.approx(0.85, abs=0.1)


@pytest.mark.parametrize(
    ("steps", "threshold", "skipped"),
    [(28, 0.12, 0.46), (14, 0.12, 0.21), (7, 0.12, 0.0), (4, 0.12, 0.0), (28, 0.4, 0.80), (14, 0.4, 0.68),
     (7, 0.4, 0.36), (4, 0.4, 0.13), (28, 0.2, 0.66), (7, 0.2, 0.07), (28, 0.8, 0.95), (4, 0.8, 0.63)],
)  # fmt: skip
def test_a_threshold_skips_less_of_fewer_steps(steps: int, threshold: float, skipped: float) -> None:
    """As counted on the trained demo."""
    facts: Any = SimpleNamespace(values={"steps": steps, "cache.threshold": threshold})
    change = cache_kind("first-block", facts).changes[0]
    shares = [(1 - factor) / (1 - SKIPPED_COST) for factor in (change.high, change.low, change.least)]
    assert shares[0] - 0.01 <= skipped <= shares[1] + 0.04
    assert skipped <= shares[2] + 0.01


FEW = ("compile.scope", "quantization.scheme", "cache.kind", "vae.tiny", "memory.group_offload", "precision.dtype")


@pytest.mark.parametrize("name", ["GEMM", "elementwise and norm", "around operators"])
@pytest.mark.parametrize("share", [0.0, 1e30])
def test_whatever_a_trace_says_the_advice_is_a_record(name: str, share: float) -> None:
    assert FLUX.build and FLUX.build.trace and FLUX.timing
    trace = msgspec.structs.replace(FLUX.build.trace, classes={name: share}, launches_per_step=None)
    build = msgspec.structs.replace(FLUX.build, trace=trace, roofline=None)
    timing = msgspec.structs.replace(FLUX.timing, components=None)
    space = msgspec.structs.replace(ALL, knobs={name: ALL.knobs[name] for name in FEW})
    advice = advise(space, H200, msgspec.structs.replace(FLUX, build=build, timing=timing), NOISE)
    assert decode(encode(advice), Advice, "here") == advice


# ---- what is ruled out ----------------------------------------------------------------------------------------------


def test_what_cannot_gain_is_ruled_out_and_what_serves_another_purpose_is_kept() -> None:
    ruled_out = {(each.knob, each.value) for each in ADVICE.ruled_out}
    assert {("attention.backend", "_native_math"), ("inductor.epilogue_fusion", False)} <= ruled_out
    for each in ADVICE.ruled_out:
        assert not each.also and each.bound is not None and each.bound < 1.01
    kept = {"memory.group_offload", "vae.tiling", "scheduler.kind", "lora.file", "steps", "compile.vae", "batch"}
    assert not kept & {name for name, _ in ruled_out}


def test_noise_rules_out_what_gains_less_than_it() -> None:
    knobs = {name: ALL.knobs[name] for name in ("compile.scope", "compile.text_encoders")} | {"steps": (28, 14)}
    space = msgspec.structs.replace(ALL, knobs=knobs)
    names = [{each.knob for each in advise(space, H200, FLUX, noise).ruled_out} for noise in (0.001, 0.02)]
    assert names == [set(), {"compile.text_encoders"}]


def test_what_the_user_fixed_is_not_ruled_out() -> None:
    knobs: dict[str, tuple[Value, ...]] = {"attention.backend": ("_native_math",), "steps": (28, 14)}
    assert advise(msgspec.structs.replace(ALL, knobs=knobs), H200, FLUX, NOISE).ruled_out == ()
    knobs["attention.backend"] = ("native", "_native_math")
    assert len(advise(msgspec.structs.replace(ALL, knobs=knobs), H200, FLUX, NOISE).ruled_out) == 1


def test_nothing_is_ruled_out_where_nothing_is_known() -> None:
    untraced = msgspec.structs.replace(FLUX, build=None)
    assert advise(ALL, H200, untraced, NOISE).ruled_out == ()

"""How close to the limit: a step's arithmetic, the rate that bounds it, and what is absent where it is not known."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tuner.hardware import environment
from tuner.knobs import other_arithmetic
from tuner.model import pipeline
from tuner.records.codec import Estimate, Values, decode, encode
from tuner.records.gate import TraceSummary
from tuner.records.machine import Environment, GpuUse, LimitShare, ProbeState, Roofline
from tuner.records.outcome import Components, Timing
from tuner.timing import rates, roofline
from tuner.timing.measure import Clock
from tuner.timing.rates import FLOAT8_ROW, INT8
from tuner.timing.shapes import Attention, Product, ShapeRecorder

CPU = environment.detect("cpu")
FOUND = Roofline(
    flop_per_step=74e12,
    weight_bytes=24_000_000_000,
    flop_per_s={"bfloat16": 790e12, roofline.FLOAT8: 1500e12},
    copy_bytes_per_s=4e12,
)
BASELINE: Values = {
    "precision.dtype": "bfloat16", "quantization.scheme": "none", "cache.kind": "none", "guidance.stop": 1.0,
    "steps": 28, "batch": 1, "compile.scope": "none",
}  # fmt: skip


def parts(denoiser_s: float | None) -> Components:
    return Components(total_s=5.0, text_encoders_s=None, denoiser_s=denoiser_s, vae_s=None, rest_s=0.0)


def share(denoiser_s: float | None, found: Roofline | None = FOUND, **changed: Any) -> LimitShare | None:
    values = BASELINE | {name.replace("__", "."): value for name, value in changed.items()}
    return roofline.limit_share(
        found, parts(denoiser_s), values, BASELINE, other_arithmetic=other_arithmetic(values, BASELINE)
    )


# ---- arithmetic -----------------------------------------------------------------------------------------------------


def test_the_figures_measured_on_an_h200() -> None:
    """research: FLUX.1-dev compiled takes 133.9 ms a step of 74 TFLOP, and is at 70 % of the bf16 rate."""
    found = share(28 * 0.1339)
    assert found is not None
    assert found.rate == "bfloat16"
    assert found.share == pytest.approx(0.70, abs=0.005)
    assert roofline.describe(found, "cuda") == "70 % of this GPU's bf16 rate"


def test_a_share_that_cannot_be_is_withheld() -> None:
    """On a busy CPU a rate was measured seven times too low: 169 % of it."""
    slow = msgspec.structs.replace(FOUND, flop_per_s={"bfloat16": 790e12 / 7})
    assert share(28 * 0.1339, slow) is None


def test_a_batch_is_as_many_images() -> None:
    one, four = share(28 * 0.1367), share(28 * 0.5286, batch=4)
    assert one is not None and four is not None
    assert four.share / one.share == pytest.approx(4 * 0.1367 / 0.5286)


def test_fp8_products_are_held_against_the_fp8_rate_and_small_weights_alone_are_not() -> None:
    row = share(28 * 0.1018, quantization__scheme="fp8-dynamic-row")
    assert row == LimitShare(share=pytest.approx(74e12 / 0.1018 / 1500e12), rate=roofline.FLOAT8)
    own = msgspec.structs.replace(FOUND, flop_per_s={**FOUND.flop_per_s, FLOAT8_ROW: 1300e12, INT8: 900e12})
    row = share(28 * 0.1018, own, quantization__scheme="fp8-dynamic-row")
    assert row == LimitShare(share=pytest.approx(74e12 / 0.1018 / 1300e12), rate=FLOAT8_ROW)
    eight = share(28 * 0.1018, own, quantization__scheme="int8-dynamic")
    assert eight == LimitShare(share=pytest.approx(74e12 / 0.1018 / 900e12), rate=INT8)
    weights = share(28 * 0.1339, quantization__scheme="fp8-weight-only")
    assert weights is not None and weights.rate == "bfloat16"


def test_what_waits_for_its_weights_is_held_against_copies() -> None:
    small = msgspec.structs.replace(FOUND, flop_per_step=0.2e12)
    found = share(28 * 0.008, small)
    assert found == LimitShare(share=pytest.approx(24e9 / 0.008 / 4e12), rate=roofline.COPY)
    assert roofline.describe(found, "cuda") == "75 % of this GPU's copy rate"
    quantized = share(28 * 0.008, small, quantization__scheme="int8-weight-only")
    assert quantized is not None and quantized.rate == "bfloat16", "its weights are smaller than those counted"


@pytest.mark.parametrize(
    "changed",
    [
        {"cache__kind": "first-block"},
        {"guidance__stop": 0.5},
        {"text__sequence_length": 128},
        {"quantization__scheme": "int8-dynamic"},
        {"precision__dtype": "float32"},
    ],
)
def test_no_share_where_the_count_or_the_rate_is_of_something_else(changed: dict[str, Any]) -> None:
    assert share(28 * 0.1, **changed) is None


def test_no_share_without_what_it_is_made_of() -> None:
    assert share(28 * 0.1, None) is None
    assert share(None) is None
    assert share(28 * 0.1, Roofline()) is None
    assert roofline.limit_share(FOUND, None, BASELINE, BASELINE, other_arithmetic=False) is None


def test_a_small_share_is_not_rounded_to_none() -> None:
    assert roofline.describe(LimitShare(share=0.0031, rate="bfloat16"), "cpu") == "0.31 % of this CPU's bf16 rate"


# ---- what binds -----------------------------------------------------------------------------------------------------


def timed(calls: int, capped: int) -> Timing:
    """Calls of an H200, of which the power cap lowered the clock in some. The latency is composed, without samples."""
    gpu = GpuUse(sm_clock_mhz=1650, power_w=687, calls=calls, events={"SW power cap": capped})
    latency = Estimate(value=1.0, low=1.0, high=1.0)
    return Timing(latency_s=latency, samples=0, images_per_s=1.0, stopped="interval within target", gpu=gpu)


TRACE = TraceSummary(
    steps=3, events=9, kernel_events=6, step_ms=1.0, gpu_busy_share=0.9, launches_per_step=2.0, top_operators=()
)


@pytest.mark.parametrize(
    ("limit", "capped", "waits", "bound"),
    [
        ((0.9, "bfloat16"), 0, 0.02, "compute"),
        ((0.9, roofline.COPY), 0, 0.02, "memory"),
        ((0.9, "bfloat16"), 6, 0.02, "power"),
        ((0.3, "bfloat16"), 6, None, "power"),
        ((0.9, "bfloat16"), 3, 0.02, "compute"),
        ((0.3, "bfloat16"), 6, 0.3, "launches"),
        ((0.3, "bfloat16"), 0, 0.02, None),
    ],
)
def test_what_binds_a_step(limit: tuple[float, str], capped: int, waits: float | None, bound: str | None) -> None:
    trace = msgspec.structs.replace(TRACE, host_wait_share=waits)
    found = roofline.with_bound(LimitShare(share=limit[0], rate=limit[1]), timed(6, capped), trace)
    assert (found.bound, found.sm_clock_mhz, found.power_w) == (bound, 1650, 687)
    assert roofline.describe_bound(found) == (f"bound by {bound}: " if bound else "") + "1650 MHz, 687 W"


def test_without_a_gpu_nothing_is_said_of_power() -> None:
    found = roofline.with_bound(LimitShare(share=0.3, rate="float32"), None, None)
    assert found.bound is None and roofline.describe_bound(found) == ""


def test_the_state_is_read_while_the_device_works_and_kept_by_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rates.SIDE, "cpu", 64)
    monkeypatch.setitem(rates.HOLD_S, "cpu", 0.05)
    states = iter(ProbeState(sm_clock_mhz=clock, power_w=690.0, is_capped=True) for clock in (1700, 1650, 1600))
    pipe: Any = SimpleNamespace(components={})
    found = roofline.measure_roofline(lambda _: None, pipe, CPU, 1, state=lambda: next(states))
    assert found.states.keys() == found.flop_per_s.keys()
    assert roofline.describe_state(found.states["float32"]) == "1700 MHz, 690 W, at the power cap"
    assert decode(encode(found), Roofline, "here") == found


def test_clock_and_power_are_read_while_much_work_is_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rates.LOOK_S, "cpu", 0.05)
    made: list[float] = []
    at_look: list[int] = []
    rates.seconds_of(
        lambda: made.append(time.sleep(0.002) or 0.0), "cpu", Clock(), look=lambda: at_look.append(len(made))
    )
    assert at_look[0] - rates.WARM_UP - rates.SAMPLES >= 5


# ---- the probe ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rates.SIDE, "cpu", 128)


class Pipe:
    """A denoiser of one linear layer and one attention, beside something else that calculates."""

    def __init__(self) -> None:
        import torch

        class Denoiser(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = torch.nn.Linear(32, 32)

            def forward(self, x: Any) -> Any:
                x = self.layer(x)[:, None]
                return torch.nn.functional.scaled_dot_product_attention(x, x, x)

        self.transformer = Denoiser()
        self.components = {"transformer": self.transformer, "text_encoder": torch.nn.Linear(32, 32)}

    def draw(self, steps: int) -> None:
        import torch

        with torch.no_grad():
            x = torch.ones(2, 16, 32)
            self.components["text_encoder"](x)
            for _ in range(steps):
                self.transformer(x)


def test_the_probe_counts_the_products_of_a_step_and_measures_rates(small: None) -> None:
    pipe = Pipe()
    found = roofline.measure_roofline(pipe.draw, pipe, CPU, batch=2)
    linear, attention = 2 * 16 * 32 * 32, 2 * 2 * 16 * 16 * 32
    assert found.flop_per_step == linear + attention, "of one image"
    assert found.weight_bytes == 4 * (32 * 32 + 32)
    assert set(found.flop_per_s) == {"float32", "bfloat16", "int8"}
    assert found.flop_by_class == {"GEMM": linear, "attention": attention}
    assert set(found.step_flop_per_s) == {"float32"}, "of the denoiser's own product"
    assert all(1e8 < rate < 1e14 for rate in found.flop_per_s.values())
    assert decode(encode(found), Roofline, "here") == found


def test_on_a_cpu_what_needs_a_gpu_is_absent(small: None) -> None:
    found = roofline.measure_roofline(Pipe().draw, Pipe(), CPU, batch=1)
    assert found.copy_bytes_per_s is None
    assert roofline.FLOAT8 not in found.flop_per_s


def test_a_probe_that_fails_says_so_and_harms_nothing(small: None) -> None:
    def broken(steps: int) -> None:
        raise ValueError("two steps are too few")

    found = roofline.measure_roofline(broken, Pipe(), CPU, batch=1)
    assert found.flop_per_step is None
    assert found.unavailable_reasons == ("FLOP of a step: ValueError: two steps are too few",)
    assert found.flop_per_s


def test_a_real_denoiser_is_counted(small: None, tiny_pipeline: Path) -> None:
    model, _ = pipeline.resolve(str(tiny_pipeline), None, None)
    pipe = pipeline.load(model, CPU, "float32")
    original = type(pipe.transformer).__call__

    def draw(steps: int) -> None:
        pipe("a red circle", num_inference_steps=steps, height=32, width=32, max_sequence_length=16, output_type="np")

    found = roofline.measure_roofline(draw, pipe, CPU, batch=1)
    layers = [m for m in pipe.transformer.modules() if type(m).__name__ == "Linear"]
    assert found.flop_per_step is not None
    assert found.flop_per_step > 2 * sum(layer.weight.numel() for layer in layers), "each layer sees a token at least"
    assert type(pipe.transformer).__call__ is original


def test_a_gpu_without_fp8_is_not_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    gpu: Environment = msgspec.structs.replace(CPU, device="cuda", compute_capability="8.0")
    monkeypatch.setattr(rates, "product_rate", lambda kind, *_, **__: asked.append(kind) or 1e12)
    monkeypatch.setattr(rates, "copy_rate", lambda *_: 1e12)
    pipe: Any = SimpleNamespace(components={})
    assert roofline.measure_roofline(lambda _: None, pipe, gpu, 1).copy_bytes_per_s == 1e12
    assert asked == ["bfloat16", "float16", "float32", "int8"]
    asked.clear()
    roofline.measure_roofline(lambda _: None, pipe, msgspec.structs.replace(gpu, compute_capability="9.0"), 1)
    assert {rates.FLOAT8, rates.FLOAT8_ROW} <= set(asked)


def test_the_shapes_of_a_step_are_those_of_its_denoiser() -> None:
    import torch

    class Denoiser(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large = torch.nn.Linear(32, 32), torch.nn.Linear(32, 128)

        def forward(self, x: Any) -> Any:
            mask = torch.ones(17, 17, dtype=torch.bool)
            attend = torch.nn.functional.scaled_dot_product_attention
            x = self.small(self.small(x)) + self.small(x[:, :1])
            heads = x.reshape(1, 17, 2, 16).transpose(1, 2)
            attend(heads.repeat(1, 2, 1, 1), heads.repeat(1, 2, 1, 1), heads.repeat(1, 2, 1, 1), attn_mask=mask)
            return attend(heads, heads, value=heads), self.large(x)

    recorder, denoiser = ShapeRecorder(), Denoiser()
    recorder.around(denoiser)(torch.ones(1, 17, 32))
    found = recorder.shapes()
    assert found.products == (Product(17, 32, 128), Product(17, 32, 32, count=2)), "one row is left out"
    assert found.attention == Attention((1, 2, 17, 16), (1, 2, 17, 16), "float32"), "a masked one is left out"
    assert found.attention.flop == 4 * 2 * 17 * 17 * 16


@pytest.mark.parametrize("dtype", [*roofline.TYPES["cpu"], rates.FLOAT8, rates.FLOAT8_ROW])
def test_products_of_every_type_have_their_shape(dtype: str) -> None:
    try:
        product: Any = rates.multiplication(dtype, Product(32, 64, 48), "cpu")()
    except (RuntimeError, NotImplementedError, ValueError) as error:
        pytest.skip(f"this CPU's torch has no such product: {error}")
    assert tuple(product.shape) == (32, 48)
    assert str(product.dtype) == {"int8": "torch.int32"}.get(
        dtype, "torch.bfloat16" if "8" in dtype else f"torch.{dtype}"
    )


@pytest.mark.parametrize("backend", ["native", "_native_flash"])
def test_attention_is_timed_by_the_kernel_that_is_named(backend: str) -> None:
    shape = Attention((1, 2, 64, 16), (1, 2, 32, 16), "float32")
    assert 0 < rates.attention_s(backend, shape, "cpu", Clock()) < 1
    with pytest.raises(RuntimeError):
        rates.attention_s("_native_cudnn", shape, "cpu", Clock())


def test_the_pipeline_that_is_bound_by_arithmetic_can_be_tuned(small: None, tmp_path: Path) -> None:
    """At a CPU's size: its denoiser is all that takes time, and draws."""
    from compute_bound import write

    model, kind = pipeline.resolve(str(write(tmp_path / "model", "cpu", 1, 1, heads=1)), None, None)
    assert kind.pipeline_class == "FluxPipeline"
    pipe = pipeline.load(model, CPU, "bfloat16")
    models = {name: part for name, part in pipe.components.items() if hasattr(part, "parameters")}
    sizes = {name: sum(weight.numel() for weight in model.parameters()) for name, model in models.items()}
    assert sizes["transformer"] > 10 * sum(size for name, size in sizes.items() if name != "transformer")
    call = {"num_inference_steps": 2, "height": 128, "width": 128, "max_sequence_length": 64}
    (image,) = pipe("a red circle", **call).images
    assert image.size == (128, 128)

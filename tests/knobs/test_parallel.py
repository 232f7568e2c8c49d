"""One image over several devices: where it can be had, with what it cannot be combined, and what it costs.

tests/faults/test_ranks.py and tests/export/test_several_devices.py show that it computes the same images.
"""

from __future__ import annotations

import msgspec
import pytest
from drawing import CPU, GPU
from kinds import kind

from tuner.knobs import KNOBS, NoEffect, apply_knobs, baseline
from tuner.knobs.parallel import SPLITS, device_count
from tuner.records.codec import Estimate, Value, Values
from tuner.records.outcome import Timing
from tuner.result.economics import Measurement, economics
from tuner.result.prices import Price, cost_of

KIND, DEGREE = KNOBS["parallel.kind"], KNOBS["parallel.degree"]
FOUR_GPUS = msgspec.structs.replace(GPU, devices=4)
FOUR_PROCESSES = msgspec.structs.replace(CPU, devices=4)


def split(value: str, degree: int = 2, **more: Value) -> Values:
    different = {name.replace("__", "."): each for name, each in more.items()}
    return {**baseline(GPU), "parallel.kind": value, "parallel.degree": degree, **different}


@pytest.mark.parametrize("value", SPLITS)
def test_with_one_device_it_is_not_there_and_says_how_to_have_it(value: str) -> None:
    reason = KIND.unavailable_reason(value, GPU, kind())
    assert reason and "an image may use 1 (tune run --devices N)" in reason
    assert KIND.unavailable_reason(value, FOUR_GPUS, kind()) is None


@pytest.mark.parametrize(
    ("pipeline_class", "value", "is_there"),
    [
        ("WanPipeline", "ulysses", True),
        ("WanPipeline", "tensor", False),
        ("StableDiffusionXLPipeline", "ulysses", False),
        ("QwenImagePipeline", "tensor", True),
    ],
)
def test_it_is_there_where_diffusers_has_a_plan(pipeline_class: str, value: str, is_there: bool) -> None:
    reason = KIND.unavailable_reason(value, FOUR_GPUS, kind(pipeline_class))
    assert (reason is None) is is_there
    assert is_there or (reason and "diffusers has no plan to split" in reason)


@pytest.mark.parametrize("value", SPLITS)
def test_on_a_cpu_only_ulysses_works(value: str) -> None:
    assert (KIND.unavailable_reason(value, FOUR_PROCESSES, kind()) is None) is value.startswith("ulysses")


def test_more_devices_than_there_are_cannot_be_had() -> None:
    assert DEGREE.unavailable_reason(4, FOUR_GPUS, kind()) is None
    assert "it needs 8 devices" in str(DEGREE.unavailable_reason(8, FOUR_GPUS, kind()))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (split("ulysses", attention__backend="_flash_3"), "works with the attention backends native"),
        (split("ring"), "works with the attention backends flash"),
        (split("ulysses", cache__kind="first-block"), "decide by its own part"),
        (split("tensor", quantization__scheme="fp8-dynamic-row"), "quantized weights cannot be split"),
        (split("tensor", fuse_qkv=True), "regrouped products"),
        (split("ulysses-anything", compile__scope="regional"), "does not compile"),
        (split("ulysses", compile__scope="regional"), None),
        (split("ulysses", quantization__scheme="fp8-dynamic-row"), None),
        (split("ring", attention__backend="_native_cudnn"), None),
        (split("ulysses", cache__kind="taylorseer"), None),
        (split("tensor"), None),
    ],
)
def test_what_it_cannot_be_combined_with(values: Values, words: str | None) -> None:
    reason = KIND.conflict_reason(values, kind())
    assert (words in str(reason)) if words else reason is None


@pytest.mark.parametrize(
    ("value", "degree", "heads", "fits"),
    [("ulysses", 4, 24, True), ("ulysses", 5, 24, False), ("ulysses-anything", 5, 24, True), ("both", 2, 24, False),
     ("both", 4, 24, True), ("both", 6, 24, True), ("both", 6, 20, False), ("tensor", 8, 12, False)],
)  # fmt: skip
def test_heads_and_rings_are_divided_equally(value: str, degree: int, heads: int, fits: bool) -> None:
    known = msgspec.structs.replace(kind(), settings={"transformer": {"num_attention_heads": heads}})
    assert (DEGREE.conflict_reason(split(value, degree), known) is None) is fits


def test_every_device_counts_in_the_cost() -> None:
    assert (device_count(baseline(GPU)), device_count(split("ulysses", 4))) == (1, 4)
    second = Estimate(value=1.0, low=1.0, high=1.0)
    alone = Timing(latency_s=second, samples=9, images_per_s=1.0, stopped="interval within target")
    price = Price(usd_per_hour=3.6, source="a test")
    assert cost_of(alone, price) == pytest.approx(1.0)
    assert cost_of(msgspec.structs.replace(alone, devices=2), price) == pytest.approx(2.0)
    one = Measurement(images_per_s=1.0, latency_s=1.0, latency_samples=9, compile_s=0.0)
    two = msgspec.structs.replace(one, images_per_s=1.8, devices=2, compile_s=10.0)
    assert economics(3.6, two, one).usd_per_1000_images == pytest.approx(2 / 1.8)
    assert economics(3.6, two, one).break_even_images is None, "it is quicker and costs more"


def test_a_denoiser_that_is_split_already_is_no_candidate() -> None:
    from types import SimpleNamespace

    pipe = SimpleNamespace(transformer=SimpleNamespace(_parallel_config=object()))
    with pytest.raises(NoEffect, match="the pipeline has it already"):
        apply_knobs(pipe, split("ulysses"), GPU)

"""Where the time of a call goes: in a made-up pipeline by a made-up clock, and in a real one, compiled or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tuner.records.codec import decode, encode
from tuner.records.outcome import Components
from tuner.timing.components import time_components
from tuner.timing.measure import Clock, CudaClock, time_call


class Hand(Clock):
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def record(self) -> float:
        return self.now


class Worker(torch.nn.Module):
    """Takes so many seconds of the clock; what is inside it takes its own."""

    def __init__(self, hand: Hand, seconds: float, inside: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.hand, self.seconds = hand, seconds
        self.model = inside

    def forward(self) -> None:
        self.hand.now += self.seconds
        if self.model is not None:
            self.model()

    def decode(self) -> None:
        self.hand.now += self.seconds


class OtherWorker(Worker):
    pass


def test_each_part_is_told_and_the_rest() -> None:
    hand = Hand()
    pipe = SimpleNamespace(
        components={
            "text_encoder": Worker(hand, 1.0),
            "text_encoder_2": OtherWorker(hand, 2.0, inside=Worker(hand, 0.5)),
            "text_encoder_3": None,
            "tokenizer": Worker(hand, 100.0),
            "transformer": Worker(hand, 3.0),
            "transformer_2": Worker(hand, 4.0),
            "vae": Worker(hand, 5.0),
            "scheduler": object(),
        }
    )
    parts = pipe.components

    def call() -> None:
        parts["text_encoder"]()
        parts["text_encoder_2"]()  # 2.5, not 3: what is inside it is not counted twice
        parts["text_encoder_2"].model()  # as some pipelines do with a language model
        for denoiser in ("transformer", "transformer", "transformer_2"):
            parts[denoiser]()
            hand.now += 0.25
        parts["vae"].decode()

    found = time_components(call, pipe, hand)
    assert found == Components(
        total_s=19.75,
        text_encoders_s=4.0,
        denoiser_s=10.0,
        vae_s=5.0,
        rest_s=0.75,
        denoiser_calls=3,
        between_steps_s=0.5,
    )
    assert decode(encode(found), Components, "test") == found


def test_what_a_component_does_between_steps_is_its_own_time() -> None:
    hand = Hand()
    parts = {"transformer": Worker(hand, 3.0), "vae": OtherWorker(hand, 5.0)}

    def call() -> None:
        parts["transformer"]()
        hand.now += 0.25
        parts["vae"].decode()
        parts["transformer"]()
        parts["vae"].decode()

    found = time_components(call, SimpleNamespace(components=parts), hand)
    assert (found.between_steps_s, found.rest_s) == (0.25, 0.25)


def test_a_part_that_is_not_there_is_absent_and_one_that_is_not_called_is_zero() -> None:
    hand = Hand()
    unet = Worker(hand, 3.0)
    found = time_components(unet, SimpleNamespace(components={"unet": unet, "vae": Worker(hand, 1.0)}), hand)
    assert found == Components(
        total_s=3.0, text_encoders_s=None, denoiser_s=3.0, vae_s=0.0, rest_s=0.0, denoiser_calls=1, between_steps_s=0.0
    )


def test_nothing_is_left_behind_even_by_a_call_that_fails() -> None:
    hand = Hand()
    pipe = SimpleNamespace(components={"transformer": Worker(hand, 1.0), "vae": OtherWorker(hand, 1.0)})

    def fail() -> None:
        pipe.components["transformer"]()
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        time_components(fail, pipe, hand)
    assert "__call__" not in vars(Worker)
    assert "decode" not in vars(pipe.components["vae"])


def test_a_compiled_decoder_stays_in_its_place() -> None:
    hand = Hand()
    vae = Worker(hand, 1.0)
    compiled = vae.decode
    vae.decode = compiled  # type: ignore[method-assign]
    time_components(lambda: vae.decode(), SimpleNamespace(components={"vae": vae}), hand)
    assert vars(vae)["decode"] is compiled


# ---- a real pipeline ------------------------------------------------------------------------------------------------


@pytest.fixture
def pipe(tiny_pipeline: Path) -> Iterator[Any]:
    from diffusers import FluxPipeline

    pipe = FluxPipeline.from_pretrained(tiny_pipeline)
    pipe.set_progress_bar_config(disable=True)
    yield pipe
    torch.compiler.reset()


def caller(pipe: Any) -> Callable[[], object]:
    return lambda: pipe("a cat", height=32, width=32, num_inference_steps=4)


def check(pipe: Any) -> Components:
    call, clock = caller(pipe), Clock()
    call()
    call()
    usual = min(time_call(call, clock)[0] for _ in range(5))
    found = min((time_components(call, pipe, clock) for _ in range(5)), key=lambda components: components.total_s)
    assert None not in (found.text_encoders_s, found.denoiser_s, found.vae_s)
    parts = [found.text_encoders_s, found.denoiser_s, found.vae_s, found.rest_s]
    assert all(part > 0 for part in parts if part is not None)
    assert sum(part for part in parts if part is not None) == pytest.approx(found.total_s)
    assert found.total_s == pytest.approx(usual, rel=0.5)
    return found


def test_the_parts_of_a_real_call_sum_to_its_time(pipe: Any) -> None:
    found = check(pipe)
    assert found.denoiser_s is not None
    assert found.denoiser_s > found.total_s / 3


@pytest.mark.parametrize("how", ["wrapped", "in place", "blocks", "decoder"])
def test_a_compiled_pipeline_is_not_compiled_again(pipe: Any, how: str) -> None:
    from torch._dynamo.utils import counters

    if how == "wrapped":
        pipe.transformer = torch.compile(pipe.transformer, backend="eager")
        pipe.text_encoder_2 = torch.compile(pipe.text_encoder_2, backend="eager")
    elif how == "in place":
        pipe.transformer.compile(backend="eager")
        pipe.text_encoder_2.compile(backend="eager")
    elif how == "blocks":
        pipe.transformer.compile_repeated_blocks(backend="eager")
    else:
        pipe.vae.decode = torch.compile(pipe.vae.decode, backend="eager")
    counters.clear()
    call = caller(pipe)
    for _ in range(3):
        call()
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    check(pipe)
    call()
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.gpu
def test_the_parts_are_told_by_the_gpus_clock(pipe: Any) -> None:
    pipe.to("cuda")
    call, clock = caller(pipe), CudaClock()
    for _ in range(3):
        call()
    usual = min(time_call(call, clock)[0] for _ in range(5))
    found = time_components(call, pipe, clock)
    assert found.text_encoders_s
    assert found.denoiser_s
    assert found.vae_s
    assert found.total_s == pytest.approx(usual, rel=0.5)

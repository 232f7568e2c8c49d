"""Kept embeddings: the same images without the text encoders, for the same prompts only, in bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawing import draw, load

from tuner.knobs.prompts import bytes_of, keep_prompts


@pytest.fixture
def pipe(tiny_pipeline: Path) -> Any:
    return load(tiny_pipeline)


def encodings(pipe: Any) -> list[int]:
    """Counts the calls of the first text encoder from now on."""
    calls: list[int] = []
    pipe.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def test_a_prompt_is_encoded_once_and_drawn_the_same(pipe: Any) -> None:
    untouched = draw(pipe, "flux")
    keep_prompts(pipe)
    calls = encodings(pipe)
    assert all(np.array_equal(draw(pipe, "flux"), untouched) for _ in range(3))
    assert len(calls) == 1


def test_other_arguments_and_other_weights_are_encoded_anew(pipe: Any) -> None:
    import torch

    keep_prompts(pipe)
    calls = encodings(pipe)
    first = pipe.encode_prompt("a", "b")[0]
    for other in ({"max_sequence_length": 16}, {"num_images_per_prompt": 2}, {"prompt_2": "c"}, {"prompt": "A"}):
        pipe.encode_prompt(**{"prompt": "a", "prompt_2": "b", **other})
    assert len(calls) == 5
    with torch.no_grad():
        pipe.text_encoder_2.get_input_embeddings().weight.mul_(2)
    assert not torch.equal(pipe.encode_prompt("a", "b")[0], first)
    given = torch.ones(1, 4, 32), torch.ones(1, 32)
    pipe.encode_prompt(None, None, prompt_embeds=given[0], pooled_prompt_embeds=given[1])
    pipe.text_encoder.peft_config = {"a LoRA": None}
    for _ in range(2):
        pipe.encode_prompt("a", "b")
    assert len(calls) == 8
    assert len(pipe.encode_prompt.kept) == 6


def test_nobody_changes_what_is_kept(pipe: Any) -> None:
    keep_prompts(pipe)
    first = pipe.encode_prompt("a", "b")[0]
    expected = first.clone()
    for _ in range(3):
        first.zero_()
        first = pipe.encode_prompt("a", "b")[0]
        assert first.equal(expected)


def test_the_oldest_are_given_up(pipe: Any) -> None:
    keep_prompts(pipe)
    size = bytes_of(pipe.encode_prompt("a", "b"))
    del pipe.encode_prompt
    keep_prompts(pipe, max_bytes=2 * size)
    calls = encodings(pipe)
    for prompt in ("a", "b", "a", "c", "a", "b"):
        pipe.encode_prompt(prompt, prompt)
        assert sum(map(bytes_of, pipe.encode_prompt.kept.values())) <= 2 * size
    assert len(calls) == 4, "a was used last when c came"

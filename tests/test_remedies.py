"""An error of a pipeline's call names the field that mends it, as data of the failure and in the last line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tuner.records.codec import decode, encode
from tuner.records.outcome import Failure
from tuner.worker.channel import Channel
from tuner.worker.remedies import effective_arguments, remedy

ARGUMENTS = {"height": None, "width": 64, "max_sequence_length": 226, "guidance_scale": 7.5, "num_images_per_prompt": 1}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("The size of tensor a (226) must match the size of tensor b (16) at non-singleton dimension 1",
         "--set workload.max_sequence_length=16"),
        ("The size of tensor a (250) must match the size of tensor b (40) at non-singleton dimension 1",
         "--set workload.max_sequence_length=16"),
        ("Sizes of tensors must match except in dimension 2. Expected size 16 but got size 226 for tensor number 1",
         "--set workload.max_sequence_length=16"),
        ("Sequence length must be less than max_position_embeddings (got `sequence length`: 226 and "
         "max_position_embeddings: 16", "--set workload.max_sequence_length=16"),
        ("The size of tensor a (77) must match the size of tensor b (16)", None),
        ("`height` and `width` have to be divisible by 8 but are 63 and 64.", "--set workload.height=VALUE"),
        ("Error no file named diffusion_pytorch_model.safetensors found in directory /m.",
         "--variant NAME, such as fp16, if the model has only variants of its weights"),
        ("CUDA error: device-side assert triggered", None),
        ("expected 226 of 16 things", None),
        ("", None),
    ],
)  # fmt: skip
def test_the_argument_that_an_error_is_about_is_named(message: str, expected: str | None) -> None:
    assert remedy(RuntimeError(message), ARGUMENTS) == expected
    before_loading = remedy(RuntimeError(message), {})
    assert before_loading == (expected if expected and expected.startswith("--variant") else None)


def test_an_argument_without_a_field_is_set_among_the_arguments() -> None:
    message = "The size of tensor a (226) must match the size of tensor b (16)"
    assert remedy(RuntimeError(message), {"text_sequence_length": 226}) == (
        "--set workload.arguments.text_sequence_length=16"
    )


def test_a_failure_carries_its_remedy(tmp_path: Path) -> None:
    with (tmp_path / "messages").open("wb") as file:
        channel = Channel(file.fileno())
        channel.arguments = ARGUMENTS
        failure = channel.failure(RuntimeError("The size of tensor a (226) must match the size of tensor b (16)"))
    assert failure.remedy == "--set workload.max_sequence_length=16"
    assert decode(encode(failure), Failure, "failure") == failure


def test_a_pipeline_that_fails_by_its_own_defaults_names_the_field(tmp_path: Path) -> None:
    """A denoiser whose positions end at 16 tokens, in a pipeline that asks its text encoder for 226."""
    import msgspec
    import pipelines
    import torch

    from tuner.records.model import Workload

    pipe = pipelines.build("cogvideox", "tiny")
    pipe.set_progress_bar_config(disable=True)
    known = dict(pipe.transformer.config)
    short = {**known, "max_text_seq_length": 16, "use_rotary_positional_embeddings": False}
    settings = {name: value for name, value in short.items() if not name.startswith("_")}
    pipe.transformer = type(pipe.transformer)(**settings)
    workload = Workload(prompts=("a cat",), seeds=(0,), height=32, width=32, num_frames=9)

    def call(workload: Workload) -> Any:
        from tuner.model.pipeline import generate

        return generate(pipe, workload, [0], {"num_inference_steps": 1})

    with torch.inference_mode(), pytest.raises(RuntimeError) as failed:
        call(workload)
    setting = remedy(failed.value, effective_arguments(pipe, workload))
    assert setting == "--set workload.max_sequence_length=16"
    call(msgspec.structs.replace(workload, max_sequence_length=16))

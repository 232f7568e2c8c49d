"""The memory layout of convolutions, of the autoencoder and of the denoiser of every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawing import CPU, FAMILIES, draw, is_one_line, kind, load

from tuner.knobs.base import NoEffect
from tuner.knobs.layout import ChannelsLast, DenoiserChannelsLast, VaeChannelsLast

Folder = Callable[[str], Path]
VAE, DENOISER = VaeChannelsLast(), DenoiserChannelsLast()
UNETS = ("sd15", "sdxl")
USED = [*((VAE, family) for family in FAMILIES), *((DENOISER, family) for family in UNETS)]


def convolutions(knob: ChannelsLast, pipe: Any) -> list[Any]:
    import torch

    return [
        module
        for model in knob.models(pipe)
        for module in model.modules()
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d))
    ]


@pytest.mark.parametrize(("knob", "family"), USED, ids=lambda each: getattr(each, "name", each))
def test_every_convolution_is_laid_out_anew_and_draws_the_same(
    knob: ChannelsLast, family: str, pipeline_folder: Folder
) -> None:
    import torch

    folder = pipeline_folder(family)
    pipe = load(folder)
    assert not knob.may_change_image
    assert knob.unavailable_reason(True, CPU, kind(folder)) is None
    untouched = draw(pipe, family)
    line = knob.apply(pipe, {knob.name: True})
    assert is_one_line(line)
    assert 0 < int(line.split()[0]) <= len(convolutions(knob, pipe))
    for module in convolutions(knob, pipe):
        layout = torch.channels_last if module.weight.ndim == 4 else torch.channels_last_3d
        assert module.weight.is_contiguous(memory_format=layout)
    assert knob.is_set(pipe, {})
    with pytest.raises(NoEffect, match="no convolution changed its layout"):
        knob.apply(pipe, {knob.name: True})
    assert np.abs(draw(pipe, family) - untouched).max() < 1e-3


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in UNETS])
def test_transformers_are_refused(family: str, pipeline_folder: Folder) -> None:
    reason = DENOISER.unavailable_reason(True, CPU, kind(pipeline_folder(family)))
    assert reason is not None
    assert "is no UNet" in reason

"""The memory layout of convolutions, of the autoencoder and of the denoiser of every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawing import CPU, FAMILIES, draw, is_one_line, kind, load

from tuner.knobs import KNOBS, NoEffect
from tuner.knobs.layout import ChannelsLast

Folder = Callable[[str], Path]
LAYOUTS: list[ChannelsLast] = [knob for knob in KNOBS.values() if isinstance(knob, ChannelsLast)]


def convolutions(knob: ChannelsLast, pipe: Any) -> list[Any]:
    import torch

    return [
        module
        for model in knob.models(pipe)
        for module in model.modules()
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d))
    ]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("knob", LAYOUTS, ids=lambda knob: knob.name)
def test_every_convolution_is_laid_out_anew_and_draws_the_same(
    knob: ChannelsLast, family: str, pipeline_folder: Folder
) -> None:
    import torch

    folder = pipeline_folder(family)
    pipe, reason = load(folder), knob.unavailable_reason(True, CPU, kind(folder))
    assert not knob.may_change_image
    if reason is not None:
        assert reason.endswith("has no blocks of convolutions")
        return
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


@pytest.mark.parametrize(
    ("family", "reason"), [("sdxl", None), ("flux", "FluxTransformer2DModel has no blocks of convolutions")]
)
def test_a_denoiser_without_convolutions_is_said_to_have_none(
    family: str, reason: str | None, pipeline_folder: Folder
) -> None:
    folder = pipeline_folder(family)
    assert KNOBS["denoiser.channels_last"].unavailable_reason(True, CPU, kind(folder)) == reason

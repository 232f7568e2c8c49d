"""The sequence length: what the denoiser attends to changes with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawing import CPU, FAMILIES, SHORT, draw, is_one_line, is_valid, kind, load, values

from tuner.knobs import KNOBS
from tuner.knobs.base import denoisers
from tuner.knobs.text import denoises_unpadded, encodes_unpadded

Folder = Callable[[str], Path]
LENGTH = KNOBS["text.sequence_length"]
WITHOUT = {"sdxl", "sd15"}
UNPADDED = {"qwen-image", "z-image", "cogview4"}


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_there_where_the_pipeline_takes_it(family: str, pipeline_folder: Folder) -> None:
    folder = pipeline_folder(family)
    reason = LENGTH.unavailable_reason(64, CPU, kind(folder))
    assert (reason is not None) is (family in WITHOUT | UNPADDED)
    assert LENGTH.unavailable_reason("workload", CPU, kind(folder)) is None
    if reason is not None:
        assert is_one_line(reason)
        return
    arguments = LENGTH.call_arguments({"text.sequence_length": 64})
    assert arguments == {"max_sequence_length": 64}
    assert is_valid(draw(load(folder), family, 2, **arguments))


def given_to_the_denoiser(pipe: Any, family: str, **more: Any) -> tuple[Any, list[Any]]:
    """What is drawn in two steps, and the shapes of all that the denoiser is given for it."""
    import torch
    from torch.utils._pytree import tree_leaves

    shapes: list[Any] = []

    def record(module: Any, *given: Any) -> None:
        shapes.extend(leaf.shape for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor))

    hooks = [denoiser.register_forward_pre_hook(record, with_kwargs=True) for denoiser in denoisers(pipe)]
    images = draw(pipe, family, 2, **more)
    for hook in hooks:
        hook.remove()
    return images, shapes


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in WITHOUT])
def test_it_saves_the_denoiser_work_wherever_it_is_there(family: str, pipeline_folder: Folder) -> None:
    pipe = load(pipeline_folder(family))
    (long, of_long), (short, of_short) = (
        given_to_the_denoiser(pipe, family, max_sequence_length=length) for length in (128, 64)
    )
    assert (of_long == of_short) is (family in UNPADDED)
    assert np.array_equal(long, short) or family not in UNPADDED


@pytest.mark.parametrize("family", FAMILIES)
def test_the_source_says_who_pads_prompts(
    family: str, pipeline_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, name = load(pipeline_folder(family)), kind(pipeline_folder(family)).pipeline_class
    shapes = []
    for prompts in (("a red cat", "the blue dog"), ("cat " * 30, "a red cat on the blue dog " * 6)):
        monkeypatch.setattr("drawing.PROMPTS", prompts)
        shapes.append(given_to_the_denoiser(pipe, family)[1])
    assert (shapes[0] != shapes[1]) is denoises_unpadded(name) is (family in UNPADDED)
    assert encodes_unpadded(name) is (family in UNPADDED - {"z-image"})


def test_flux_attends_to_so_many_tokens(pipeline_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(SHORT, "flux")
    pipe = load(pipeline_folder("flux"))
    seen = []

    def record(module: Any, arguments: Any, named: Any) -> None:
        seen.append(named["encoder_hidden_states"].shape[1])

    denoisers(pipe)[0].register_forward_pre_hook(record, with_kwargs=True)
    drawn = [draw(pipe, "flux", 1, **LENGTH.call_arguments({LENGTH.name: length})) for length in ("workload", 64, 16)]
    assert seen == [512, 64, 16]
    assert not np.array_equal(drawn[1], drawn[2])
    assert LENGTH.may_change_image


@pytest.mark.parametrize(("family", "most"), [("flux", 512), ("ovis-image", 256), ("sd3", 512)])
def test_more_than_the_pipeline_takes_is_refused(family: str, most: int, pipeline_folder: Folder) -> None:
    folder = pipeline_folder(family)
    assert LENGTH.unavailable_reason(most, CPU, kind(folder)) is None
    assert str(most) in (LENGTH.unavailable_reason(most + 1, CPU, kind(folder)) or "")


def test_it_leaves_the_workload_alone_unless_told() -> None:
    assert LENGTH.call_arguments(values({})) == {}
    assert [LENGTH.invalid_reason(value) for value in ("workload", 1, 77)] == [None, None, None]
    for junk in (0, -1, True, 1.5, "512", "", None):
        assert is_one_line(LENGTH.invalid_reason(junk))
    assert "64" in LENGTH.apply(None, {"text.sequence_length": 64})

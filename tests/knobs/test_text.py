"""The sequence length: what the denoiser attends to changes with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawing import CPU, FAMILIES, draw, is_one_line, is_valid, kind, load, values

from tuner.knobs import KNOBS
from tuner.knobs.base import denoisers

Folder = Callable[[str], Path]
LENGTH = KNOBS["text.sequence_length"]
WITHOUT = {"sdxl", "sd15"}


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_there_where_the_pipeline_takes_it(family: str, pipeline_folder: Folder) -> None:
    folder = pipeline_folder(family)
    reason = LENGTH.unavailable(64, CPU, kind(folder))
    assert (reason is not None) is (family in WITHOUT)
    assert LENGTH.unavailable("workload", CPU, kind(folder)) is None
    if reason is not None:
        assert is_one_line(reason)
        return
    arguments = LENGTH.call_arguments({"text.sequence_length": 64})
    assert arguments == {"max_sequence_length": 64}
    assert is_valid(draw(load(folder), family, 2, **arguments))


def test_flux_attends_to_so_many_tokens(pipeline_folder: Folder) -> None:
    pipe = load(pipeline_folder("flux"))
    seen = []

    def record(module: Any, arguments: Any, named: Any) -> None:
        seen.append(named["encoder_hidden_states"].shape[1])

    denoisers(pipe)[0].register_forward_pre_hook(record, with_kwargs=True)
    drawn = [draw(pipe, "flux", 1, **LENGTH.call_arguments({LENGTH.name: length})) for length in ("workload", 64, 16)]
    assert seen == [512, 64, 16]
    assert not np.array_equal(drawn[1], drawn[2])
    assert LENGTH.image


@pytest.mark.parametrize(("family", "most"), [("flux", 512), ("ovis-image", 256), ("qwen-image", 1024)])
def test_more_than_the_pipeline_takes_is_refused(family: str, most: int, pipeline_folder: Folder) -> None:
    folder = pipeline_folder(family)
    assert LENGTH.unavailable(most, CPU, kind(folder)) is None
    assert str(most) in (LENGTH.unavailable(most + 1, CPU, kind(folder)) or "")


def test_it_leaves_the_workload_alone_unless_told() -> None:
    assert LENGTH.call_arguments(values({})) == {}
    assert [LENGTH.wrong(value) for value in ("workload", 1, 77)] == [None, None, None]
    for junk in (0, -1, True, 1.5, "512", "", None):
        assert is_one_line(LENGTH.wrong(junk))
    assert "64" in LENGTH.apply(None, {"text.sequence_length": 64})

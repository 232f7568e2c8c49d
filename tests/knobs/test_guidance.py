"""Guidance for a part of the steps: the others run the denoiser for half as many samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawing import CPU, FAMILIES, draw, is_one_line, is_valid, kind, load

from tuner.knobs import KNOBS
from tuner.knobs.base import denoisers

Folder = Callable[[str], Path]
WHERE = {"guidance.stop": "z-image", "guidance.truncation": "lumina2"}
STEPS = 6


@pytest.mark.parametrize("name", WHERE)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_there_where_the_pipeline_has_it(name: str, family: str, pipeline_folder: Folder) -> None:
    folder = pipeline_folder(family)
    reason = KNOBS[name].unavailable_reason(0.5, CPU, kind(folder))
    assert (reason is None) is (WHERE[name] == family)
    assert reason is None or is_one_line(reason)
    assert KNOBS[name].unavailable_reason(1.0, CPU, kind(folder)) is None


@pytest.mark.parametrize("name", WHERE)
def test_the_denoiser_runs_for_fewer_samples(name: str, pipeline_folder: Folder) -> None:
    family = WHERE[name]
    pipe = load(pipeline_folder(family))
    samples: list[int] = []

    def record(module: Any, arguments: Any, named: Any) -> None:
        samples.append(len(arguments[0] if arguments else named["hidden_states"]))

    denoisers(pipe)[0].register_forward_pre_hook(record, with_kwargs=True)
    drawn, cost = [], []
    for share in (1.0, 0.5):
        samples.clear()
        arguments = KNOBS[name].call_arguments({name: share})
        drawn.append(draw(pipe, family, STEPS, guidance_scale=4.0, **arguments))
        cost.append(sum(samples))
    assert all(map(is_valid, drawn))
    assert cost[0] == 2 * 2 * STEPS
    assert 2 * STEPS < cost[1] < cost[0]
    assert not np.array_equal(*drawn)
    assert KNOBS[name].may_change_image
    assert is_one_line(KNOBS[name].apply(pipe, {name: 0.5}))


@pytest.mark.parametrize("name", WHERE)
def test_a_share_is_a_share(name: str) -> None:
    assert [KNOBS[name].invalid_reason(value) for value in (1.0, 1, 0.01)] == [None] * 3
    for junk in (0, -0.5, 1.01, True, "0.5", float("nan"), float("inf"), None):
        assert is_one_line(KNOBS[name].invalid_reason(junk))
    assert KNOBS[name].call_arguments({name: 1.0}) == {}

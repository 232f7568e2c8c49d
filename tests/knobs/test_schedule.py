"""Steps, solvers and the begin index, on the pipelines of every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawing import CPU, FAMILIES, GPU, draw, is_one_line, is_valid, kind, load, values
from kinds import kind as known

from tuner.knobs import KNOBS
from tuner.knobs.base import NoEffect
from tuner.knobs.schedule import FOR_BOTH

Folder = Callable[[str], Path]
KIND = KNOBS["scheduler.kind"]

EULER, HEUN = "EulerDiscreteScheduler", "HeunDiscreteScheduler"
FLOW_EULER, FLOW_HEUN = f"FlowMatch{EULER}", f"FlowMatch{HEUN}"
DPM, UNIPC, DEIS = MULTISTEP = FOR_BOTH
WORKING: dict[str, set[str]] = {
    "flux": {UNIPC},
    "flux2": set(MULTISTEP),
    "sd3": {FLOW_HEUN, *MULTISTEP},
    "sdxl": {HEUN, *MULTISTEP},
    "qwen-image": {UNIPC},
    "z-image": set(),
    "sana": {FLOW_EULER, FLOW_HEUN, UNIPC, DEIS},
    "pixart": {EULER, HEUN, UNIPC, DEIS},
    "wan": {FLOW_EULER, FLOW_HEUN, DPM, DEIS},
    "sd15": {HEUN, *MULTISTEP},
    "chroma": {UNIPC},
    "lumina2": {UNIPC},
    "auraflow": {FLOW_HEUN, *MULTISTEP},
    "cogview4": set(),
    "ovis-image": set(MULTISTEP),
    "wan22": {FLOW_EULER, FLOW_HEUN, DPM, DEIS},
    "ltx": {UNIPC},
    "cogvideox": set(),
    "hunyuan-video": {UNIPC},
    "mochi": set(),
    "sana-video": {FLOW_EULER, FLOW_HEUN, UNIPC, DEIS},
}
REPAIRED = {"sd3", "sana", "pixart", "sd15", "cogview4", "ltx", "sana-video"}
"""Families whose pipeline does not set the begin index, and whose scheduler has one."""

SLOW_STEPS = 24


@pytest.mark.parametrize("family", FAMILIES)
def test_a_solver_that_is_not_there_says_why(family: str, pipeline_folder: Folder) -> None:
    folder = pipeline_folder(family)
    reasons = {solver: KIND.unavailable_reason(solver, CPU, kind(folder)) for solver in KIND.choices}
    available = {str(solver) for solver, reason in reasons.items() if reason is None} - {"own"}
    assert available == WORKING[family]
    assert all(is_one_line(reason) for reason in reasons.values() if reason is not None)
    assert reasons["own"] is None


@pytest.mark.parametrize("family", [family for family in FAMILIES if WORKING[family]])
def test_a_solver_draws_its_own_image_of_few_steps_and_the_same_of_many(family: str, pipeline_folder: Folder) -> None:
    pipe = load(pipeline_folder(family))
    own, few, many = pipe.scheduler, draw(pipe, family, 3), draw(pipe, family, SLOW_STEPS)
    for solver in sorted(WORKING[family]):
        pipe.scheduler = own
        line = KIND.apply(pipe, {"scheduler.kind": solver})
        assert line == f"{solver} in place of {type(own).__name__}"
        assert type(pipe.scheduler).__name__ == solver
        drawn = draw(pipe, family, 3)
        assert is_valid(drawn)
        assert not np.array_equal(drawn, few), solver
        assert np.abs(draw(pipe, family, SLOW_STEPS) - many).mean() < 0.3 * many.std(), solver


@pytest.mark.parametrize("solver", MULTISTEP)
def test_flux_with_its_published_schedule_takes_every_multistep_solver(solver: str, pipeline_folder: Folder) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    pipe = load(pipeline_folder("flux"))
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256,
        max_image_seq_len=4096,
    )  # fmt: skip
    many = draw(pipe, "flux", SLOW_STEPS)
    KIND.apply(pipe, {"scheduler.kind": solver})
    assert np.abs(draw(pipe, "flux", SLOW_STEPS) - many).mean() < 0.3 * many.std()


def test_the_own_solver_by_another_name_is_no_effect(pipeline_folder: Folder) -> None:
    with pytest.raises(NoEffect, match="own"):
        KIND.apply(load(pipeline_folder("flux")), {"scheduler.kind": FLOW_EULER})


def looked_up(scheduler: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The time steps that a scheduler looks up from now on."""
    seen: list[Any] = []
    original = scheduler.index_for_timestep

    def recorded(timestep: Any, *more: Any) -> Any:
        seen.append(timestep)
        return original(timestep, *more)

    monkeypatch.setattr(scheduler, "index_for_timestep", recorded)
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_with_a_begin_index_nothing_is_looked_up_and_the_image_stays(
    family: str, pipeline_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pipeline_folder(family)
    knob = KNOBS["scheduler.begin_index"]
    reason = knob.unavailable_reason(True, GPU, kind(folder))
    assert (reason is None) is (family in REPAIRED)
    pipe = load(folder)
    if reason is not None:
        assert is_one_line(reason)
        if "already" in reason:
            seen = looked_up(pipe.scheduler, monkeypatch)
            draw(pipe, family)
            assert not seen
        return
    seen = looked_up(pipe.scheduler, monkeypatch)
    untouched = draw(pipe, family)
    assert seen, "the untouched pipeline looks its first step up"
    seen.clear()
    assert is_one_line(knob.apply(pipe, {"scheduler.begin_index": True}))
    assert np.array_equal(draw(pipe, family), untouched)
    assert np.array_equal(draw(pipe, family), untouched), "every call begins anew"
    assert not seen


def test_the_begin_index_outlives_a_change_of_solver(pipeline_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KNOBS["scheduler.kind"].order < KNOBS["scheduler.begin_index"].order
    pipe = load(pipeline_folder("sd3"))
    for name, value in {"scheduler.kind": UNIPC, "scheduler.begin_index": True}.items():
        KNOBS[name].apply(pipe, {name: value})
    seen = looked_up(pipe.scheduler, monkeypatch)
    assert is_valid(draw(pipe, "sd3"))
    assert not seen


def test_a_distilled_lora_takes_few_steps() -> None:
    few, many = values({"lora.file": "/loras", "steps": 8}), values({"lora.file": "/loras", "steps": 28})
    assert KNOBS["steps"].conflict_reason(few, known()) is None
    assert is_one_line(KNOBS["steps"].conflict_reason(many, known()))
    assert KNOBS["steps"].conflict_reason(values({"steps": 50}), known()) is None

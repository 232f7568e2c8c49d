"""Teacher-forced denoiser error, on tiny pipelines of random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuner.errors import Unavailable
from tuner.knobs import trajectory_change
from tuner.quality import denoiser


def load(folder: Path) -> Any:
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(pipe: Any, steps: int = 3, prompts: tuple[str, ...] = ("a",), **more: Any) -> Callable[[], object]:
    import torch

    def run() -> object:
        generators = [torch.Generator().manual_seed(0) for _ in prompts]
        return pipe(list(prompts), generator=generators, num_inference_steps=steps, height=32, width=32,
                    output_type="latent", **more)  # fmt: skip

    return run


def test_the_error_is_none_for_the_same_denoiser_and_grows_with_the_damage(
    pipeline_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    import torch

    pipe, file = load(pipeline_folder("flux")), tmp_path / "denoiser.safetensors"
    own = pipe.transformer
    denoiser.record(pipe, call(pipe), file, {"steps": 3, "batch": 1})
    assert pipe.transformer is own
    assert denoiser.recorded(file) == {"steps": 3, "batch": 1}
    same = denoiser.compare(pipe, call(pipe), file, 1)
    assert same.per_call == pytest.approx((0.0, 0.0, 0.0), abs=1e-6)
    twice = denoiser.compare(pipe, call(pipe, prompts=("a", "a")), file, 2)
    assert twice.largest < 1e-4
    with torch.no_grad():
        pipe.transformer.proj_out.weight.mul_(1.1)
    damaged = denoiser.compare(pipe, call(pipe), file, 1)
    assert 0.01 < damaged.mean <= damaged.largest < 0.3


def test_the_latents_are_the_baselines_whatever_the_steps_before_did(
    pipeline_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    pipe, file = load(pipeline_folder("sdxl")), tmp_path / "denoiser.safetensors"
    denoiser.record(pipe, call(pipe), file, {"steps": 3, "batch": 1})
    again = load(pipeline_folder("sdxl"))
    own = again.scheduler.step
    again.scheduler.step = lambda noise, *args, **kwargs: own(noise * 2, *args, **kwargs)
    assert denoiser.compare(again, call(again), file, 1).largest < 1e-4


@pytest.mark.parametrize("family", ["flux", "sdxl", "wan"])
def test_of_many_calls_a_few_are_computed_and_the_others_return_what_was_recorded(
    family: str, pipeline_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    import torch

    pipe, file = load(pipeline_folder(family)), tmp_path / "denoiser.safetensors"
    own = next(component for name, component in pipe.components.items() if name in ("transformer", "unet"))
    calls: list[int] = []
    own.register_forward_hook(lambda *_: calls.append(1))
    denoiser.record(pipe, call(pipe, steps=6), file, {"steps": 6, "batch": 1})
    made = len(calls)
    few = denoiser.compare(pipe, call(pipe, steps=6), file, 1, limit=3)
    assert len(calls) - made == len(few.per_call) == 3
    assert few.largest < 1e-4
    with torch.no_grad():
        for weight in own.parameters():
            weight.mul_(1.02)
    every = denoiser.compare(pipe, call(pipe, steps=6), file, 1)
    few = denoiser.compare(pipe, call(pipe, steps=6), file, 1, limit=3)
    assert len(every.per_call) == made
    assert few.per_call == tuple(every.per_call[place] for place in sorted(denoiser.spread(made, 3)))
    assert few.largest > 1e-3


def test_the_computed_calls_are_spread_over_all_steps() -> None:
    assert denoiser.spread(3, 8) == {0, 1, 2}
    assert denoiser.spread(100, 8) == {0, 14, 28, 42, 57, 71, 85, 99}
    assert denoiser.spread(5, 1) == {0}


def test_other_steps_do_not_compare_and_say_so(pipeline_folder: Callable[[str], Path], tmp_path: Path) -> None:
    pipe, file = load(pipeline_folder("flux")), tmp_path / "denoiser.safetensors"
    denoiser.record(pipe, call(pipe), file, {"steps": 3, "batch": 1})
    with pytest.raises(Unavailable, match="2 times, the baseline 3"):
        denoiser.compare(pipe, call(pipe, steps=2), file, 1)
    with pytest.raises(Unavailable, match="more than the baseline's 3"):
        denoiser.compare(pipe, call(pipe, steps=4), file, 1)
    assert trajectory_change({"steps": 2}, {"steps": 3}) == "steps"
    quantized = {"steps": 3, "quantization.scheme": "int8-dynamic"}
    assert trajectory_change(quantized, {"steps": 3, "quantization.scheme": "none"}) is None


def test_a_pipeline_without_a_denoiser_says_so(tmp_path: Path) -> None:
    class Nothing:
        pass

    with pytest.raises(Unavailable, match="no denoiser"):
        denoiser.record(Nothing(), lambda: None, tmp_path / "file", {"steps": 1, "batch": 1})

"""Every family's pipeline of random weights is one that a study can be run on."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import pytest

from tuner.model.folder_check import check_folder

PROMPTS = ("a red cat", "the blue dog")
VIDEO = {"wan": 5, "wan22": 5, "ltx": 9, "cogvideox": 9, "hunyuan-video": 5, "mochi": 7, "sana-video": 5}


def load(folder: Path, dtype: str = "float32") -> Any:
    import torch
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, family: str, prompts: Sequence[str], seed: int) -> Any:
    """Images or videos of these prompts, all from one seed, as an array from 0 to 1."""
    import torch

    generators = [torch.Generator().manual_seed(seed) for _ in prompts]
    more = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "np", **pipelines.CALL.get(family, {})}
    drawn = pipe(prompt=list(prompts), generator=generators, **more)
    return np.asarray(drawn.frames if family in VIDEO else drawn.images)


@pytest.mark.parametrize("family", (*pipelines.FAMILIES, *pipelines.OTHERS))
def test_draws(family: str, pipeline_folder: Callable[[str], Path]) -> None:
    folder = pipeline_folder(family)
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 10e6
    assert not [file for file in files if file.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".py"}]

    check_folder(folder)

    pipe = load(folder)
    first, again = draw(pipe, family, PROMPTS, seed=0), draw(pipe, family, PROMPTS, seed=1)

    frames = (VIDEO[family],) if family in VIDEO else ()
    assert first.shape == (2, *frames, 32, 32, 3)
    assert np.isfinite(first).all()
    assert first.min() >= 0
    assert first.max() <= 1
    assert all(image.std() > 0.03 for image in first)
    assert np.abs(first[0] - first[1]).mean() > 0.003, "the prompt does not matter"
    assert np.abs(first - again).mean(axis=tuple(range(1, first.ndim))).min() > 0.01, "the seed does not matter"


@pytest.mark.parametrize("family", pipelines.FAMILIES)
def test_draws_in_bfloat16(family: str, pipeline_folder: Callable[[str], Path]) -> None:
    drawn = draw(load(pipeline_folder(family), "bfloat16"), family, PROMPTS, seed=0)
    assert np.isfinite(drawn).all()
    assert drawn.std() > 0.03


@pytest.mark.parametrize("family", (*pipelines.FAMILIES, *pipelines.OTHERS))
def test_has_blocks_to_compile_and_cache(family: str) -> None:
    """Of each kind of block there are at least two, with linear layers of sizes that quantization kernels take."""
    from torch.nn import Linear, ModuleList

    pipe = pipelines.build(family, empty=True)
    if hasattr(pipe, "unet"):
        blocks = [part for part in pipe.unet.modules() if type(part).__name__ == "BasicTransformerBlock"]
    else:
        blocks = [block for part in pipe.transformer.children() if isinstance(part, ModuleList) for block in part]
    kinds = [type(block) for block in blocks]
    assert kinds
    assert min(kinds.count(kind) for kind in kinds) >= 2
    linears = [part for block in blocks for part in block.modules() if isinstance(part, Linear)]
    assert linears
    assert not [linear for linear in linears if linear.in_features % 16 or linear.out_features % 16]


def test_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        pipelines.write("sd3", tmp_path / name)
    for file in (tmp_path / "one").rglob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "two" / file.relative_to(tmp_path / "one")).read_bytes()


@pytest.mark.parametrize(
    ("family", "billions"),
    [
        ("flux", {"transformer": 11.90, "text_encoder": 0.123, "text_encoder_2": 4.76, "vae": 0.084}),
        ("sdxl", {"unet": 2.57, "text_encoder": 0.123, "text_encoder_2": 0.695, "vae": 0.084}),
        ("wan", {"transformer": 1.42, "text_encoder": 5.68, "vae": 0.127}),
    ],
)
def test_full_size_has_the_published_number_of_parameters(family: str, billions: dict[str, float]) -> None:
    pipe = pipelines.build(family, "full", empty=True)
    for name, model in pipelines.models(pipe).items():
        parameters = list(model.parameters())
        assert all(parameter.is_meta for parameter in parameters)
        count = sum(parameter.numel() for parameter in parameters) / 1e9
        assert count == pytest.approx(billions.pop(name), rel=5e-3)
    assert not billions


@pytest.mark.parametrize("family", pipelines.FULL)
def test_the_weights_of_a_full_size_draw(family: str, tmp_path: Path) -> None:
    """On the tiny sizes: the same way of filling parameters that have no values yet."""
    pipe = pipelines.build(family, empty=True)
    for model in pipelines.models(pipe).values():
        pipelines.fill(model)
    pipe.save_pretrained(tmp_path)
    drawn = draw(load(tmp_path, "bfloat16"), family, PROMPTS, seed=0)
    assert np.isfinite(drawn).all()
    assert all(image.std() > 0.03 for image in drawn)
    assert np.abs(drawn[0] - drawn[1]).mean() > 0.002


def test_only_some_have_a_full_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sana: only flux, sdxl, wan have a full size"):
        pipelines.write("sana", tmp_path / "sana", "full")
    with pytest.raises(ValueError, match="dalle: no such family"):
        pipelines.write("dalle", tmp_path / "dalle")
    assert not list(tmp_path.iterdir())


def test_as_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pipelines.py", "pixart", str(tmp_path / "pixart")])
    runpy.run_path(pipelines.__file__, run_name="__main__")
    assert (tmp_path / "pixart" / "model_index.json").is_file()

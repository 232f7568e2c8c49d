"""The autoencoder's knobs, on the autoencoders of every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawing import CPU, FAMILIES, draw, is_one_line, is_valid, kind, load, values
from kinds import kind as known

from tuner.errors import Unavailable
from tuner.knobs import KNOBS

Folder = Callable[[str], Path]


def tiny(folder: Path, channels: int = 4, blocks: int = 3) -> str:
    """An AutoencoderTiny of random weights: twice as many pixels a side with every block but the first."""
    import torch
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    AutoencoderTiny(
        latent_channels=channels, encoder_block_out_channels=(16,) * blocks, num_encoder_blocks=(1,) * blocks,
        decoder_block_out_channels=(16,) * blocks, num_decoder_blocks=(1,) * blocks,
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["vae.slicing"])
def test_what_costs_no_quality_draws_the_same(name: str, family: str, pipeline_folder: Folder) -> None:
    folder, knob = pipeline_folder(family), KNOBS[name]
    assert not knob.may_change_image
    assert knob.unavailable_reason(True, CPU, kind(folder)) is None
    pipe = load(folder)
    untouched = draw(pipe, family)
    assert is_one_line(knob.apply(pipe, {name: True}))
    assert np.abs(draw(pipe, family) - untouched).max() < 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_tiling_is_switched_on_and_draws(family: str, pipeline_folder: Folder) -> None:
    folder, knob = pipeline_folder(family), KNOBS["vae.tiling"]
    assert knob.unavailable_reason(True, CPU, kind(folder)) is None
    pipe = load(folder)
    assert is_one_line(knob.apply(pipe, {"vae.tiling": True}))
    assert pipe.vae.use_tiling
    assert knob.idle_reason(pipe, {}) is None, "not known yet"
    knob.watch(pipe)
    assert is_valid(draw(pipe, family))
    assert knob.idle_reason(pipe, {}) == "no image was larger than a tile"


def test_tiles_change_the_image(pipeline_folder: Folder) -> None:
    pipe = load(pipeline_folder("flux"))
    untouched = draw(pipe, "flux")
    KNOBS["vae.tiling"].apply(pipe, {"vae.tiling": True})
    pipe.vae.tile_latent_min_size, pipe.vae.tile_sample_min_size = 4, 16
    KNOBS["vae.tiling"].watch(pipe)
    tiled = draw(pipe, "flux")
    assert KNOBS["vae.tiling"].idle_reason(pipe, {}) is None
    assert is_valid(tiled)
    assert not np.array_equal(tiled, untouched)
    assert KNOBS["vae.tiling"].may_change_image


def test_an_autoencoder_without_pieces_says_so() -> None:
    from drawing import GPU

    from tuner.model import architecture

    parts = {"unet": "UNet2DConditionModel", "vae": "VQModel"}
    strange = architecture.describe("StableDiffusionPipeline", parts)
    assert KNOBS["vae.tiling"].unavailable_reason(True, GPU, strange) == "VQModel has no tiling"
    assert KNOBS["vae.slicing"].unavailable_reason(True, GPU, strange) == "VQModel has no slicing"
    assert KNOBS["vae.slicing"].unavailable_reason(False, GPU, strange) is None
    nothing = architecture.describe("StableDiffusionPipeline", {"unet": "UNet2DConditionModel"})
    for name in ("vae.tiling", "vae.slicing", "vae.channels_last"):
        assert is_one_line(KNOBS[name].unavailable_reason(True, GPU, nothing))


def test_slicing_one_image_is_refused() -> None:
    assert is_one_line(KNOBS["vae.slicing"].conflict_reason(values({"vae.slicing": True, "batch": 1}), known()))
    assert KNOBS["vae.slicing"].conflict_reason(values({"vae.slicing": True, "batch": 4}), known()) is None
    assert KNOBS["vae.slicing"].conflict_reason(values({"batch": 1}), known()) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_autoencoder_decodes_where_it_fits(family: str, pipeline_folder: Folder, tmp_path: Path) -> None:
    folder, knob = pipeline_folder(family), KNOBS["vae.tiny"]
    blocks = {"lumina2": 4}.get(family, 3)
    given = tiny(tmp_path / "tiny", blocks=blocks)
    reason = knob.unavailable_reason(given, CPU, kind(folder))
    assert (reason is None) is (kind(folder).components["vae"] == "AutoencoderKL")
    if reason is not None:
        assert is_one_line(reason)
        return
    pipe = load(folder)
    untouched, own = draw(pipe, family), pipe.vae
    line = knob.apply(pipe, {"vae.tiny": given})
    assert is_one_line(line)
    assert type(pipe.vae).__name__ == "AutoencoderTiny"
    assert pipe.vae.dtype == own.dtype
    drawn = draw(pipe, family)
    assert np.isfinite(drawn).all()
    assert drawn.shape == untouched.shape
    assert not np.array_equal(drawn, untouched)


@pytest.mark.parametrize(
    ("sizes", "reason"), [({"channels": 16}, "16 channels, this pipeline's have 4"), ({"blocks": 4}, "8 pixels")]
)
def test_a_tiny_autoencoder_for_other_latents_says_so(
    sizes: dict[str, int], reason: str, pipeline_folder: Folder, tmp_path: Path
) -> None:
    with pytest.raises(Unavailable, match=reason) as refused:
        KNOBS["vae.tiny"].apply(load(pipeline_folder("flux")), {"vae.tiny": tiny(tmp_path / "tiny", **sizes)})
    assert is_one_line(str(refused.value))


def test_pickled_weights_are_not_read(pipeline_folder: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    tiny(folder)
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(Unavailable, match="could be loaded"):
        KNOBS["vae.tiny"].apply(load(pipeline_folder("flux")), {"vae.tiny": str(folder)})


def test_a_folder_that_is_not_there_says_so(pipeline_folder: Folder, tmp_path: Path) -> None:
    reason = KNOBS["vae.tiny"].unavailable_reason(str(tmp_path / "nowhere"), CPU, kind(pipeline_folder("flux")))
    assert reason == f"there is no {tmp_path / 'nowhere'} on this machine"


@pytest.mark.parametrize("name", ["vae.tiny", "lora.file"])
@pytest.mark.parametrize(
    ("value", "right"),
    [
        ("none", True), ("/weights/tiny", True), ("madebyollin/taef1", True), ("madebyollin/taef1@3c1d", True),
        ("ByteDance/Hyper-SD/Hyper-FLUX.1-dev-8steps-lora.safetensors", True), ("owner/name/file.bin", False),
        ("", False), ("weights", False), ("./weights", False), ("../a/b", False), (1, False), (True, False),
        ("owner/../x.safetensors", False), ("https://host/file.safetensors", False), ("a b/c", False),
    ],
)  # fmt: skip
def test_what_names_weights(name: str, value: Any, right: bool) -> None:
    is_file = isinstance(value, str) and value.endswith(".safetensors")
    assert (KNOBS[name].invalid_reason(value) is None) is (right and not (is_file and name == "vae.tiny"))


def test_what_is_on_the_hub_is_taken_apart() -> None:
    from tuner.knobs.user_weights import load_arguments

    assert load_arguments("/weights/a@b") == ("/weights/a@b", {})
    assert load_arguments("owner/name") == ("owner/name", {})
    assert load_arguments("owner/name@1a2b") == ("owner/name", {"revision": "1a2b"})
    assert load_arguments("owner/name/sub/x.safetensors@1a2b") == (
        "owner/name", {"weight_name": "sub/x.safetensors", "revision": "1a2b"},
    )  # fmt: skip

"""What the package learns of a pipeline from diffusers' source, and which pipelines it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from kinds import COMPONENTS, kind

from tuner.errors import BadInput
from tuner.model import architecture
from tuner.records.codec import Value, decode, encode
from tuner.records.model import Architecture


@pytest.mark.parametrize("pipeline_class", COMPONENTS)
def test_a_text_to_image_pipeline_can_be_tuned(pipeline_class: str) -> None:
    known = kind(pipeline_class)
    assert architecture.unsupported_reason(known) is None
    assert known.denoisers
    steps = known.arguments["num_inference_steps"]
    assert isinstance(steps, int)
    assert 4 <= steps <= 100


@pytest.mark.parametrize(
    ("pipeline_class", "dispatches", "caches", "fuses"),
    [
        ("FluxPipeline", True, True, True),
        ("QwenImagePipeline", True, True, False),
        ("ZImagePipeline", True, False, False),
        ("StableDiffusion3Pipeline", False, False, True),
        ("SanaPipeline", False, False, False),
        ("WanPipeline", True, True, True),
        ("LTXPipeline", True, True, False),
    ],
)
def test_what_a_class_can_do_is_read_from_its_source(
    pipeline_class: str, dispatches: bool, caches: bool, fuses: bool
) -> None:
    known = kind(pipeline_class)
    (denoiser,) = known.denoisers
    assert (denoiser.dispatches_attention, denoiser.is_cacheable, denoiser.fuses_qkv) == (dispatches, caches, fuses)


@pytest.mark.parametrize(
    ("pipeline_class", "says"),
    [
        ("FluxImg2ImgPipeline", "input image"),
        ("FluxControlPipeline", "input image"),
        ("WanImageToVideoPipeline", "needs image"),
        ("WanVideoToVideoPipeline", "input image"),
        ("StableDiffusionXLInpaintPipeline", "input image"),
        ("QwenImageEditPipeline", "input image"),
        ("StableVideoDiffusionPipeline", "takes no prompt"),
        ("DiTPipeline", "takes no prompt"),
    ],
)
def test_a_pipeline_that_needs_more_than_a_prompt_is_refused(pipeline_class: str, says: str) -> None:
    known = architecture.describe(pipeline_class, {"transformer": "FluxTransformer2DModel"})
    assert says in str(architecture.unsupported_reason(known))


def test_a_pipeline_without_a_denoiser_is_refused() -> None:
    assert "transformer" in str(
        architecture.unsupported_reason(architecture.describe("FluxPipeline", {"vae": "AutoencoderKL"}))
    )


def test_two_denoisers_are_both_seen() -> None:
    parts = {"transformer": "WanTransformer3DModel", "transformer_2": "WanTransformer3DModel"}
    known = architecture.describe("WanPipeline", parts)
    assert [denoiser.component for denoiser in known.denoisers] == ["transformer", "transformer_2"]


@pytest.mark.parametrize(
    "index",
    [
        {"_class_name": "NoSuchPipeline"},
        {"_class_name": "../../etc/passwd"},
        {"_class_name": 7},
        {},
        [],
    ],
)
def test_an_index_of_something_else_is_refused(index: Value, tmp_path: Path) -> None:
    file = tmp_path / "model_index.json"
    file.write_text(json.dumps(index))
    with pytest.raises(BadInput, match=r"model_index\.json") as refusal:
        architecture.read(file)
    assert "\n" not in str(refusal.value)


def test_a_component_that_is_not_loaded_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "model_index.json"
    file.write_text(
        json.dumps(
            {
                "_class_name": "WanPipeline",
                "transformer": ["diffusers", "WanTransformer3DModel"],
                "transformer_2": [None, None],
                "boundary_ratio": None,
            }
        )
    )
    assert architecture.read(file).components == {"transformer": "WanTransformer3DModel"}


def test_it_imports_neither_torch_nor_diffusers() -> None:
    code = """
import sys
from tuner.model import architecture
architecture.describe("FluxPipeline", {"transformer": "FluxTransformer2DModel"})
print(*{"torch", "diffusers"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_a_scheduler_with_an_infinite_setting_is_described_in_json(tmp_path: Path) -> None:
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"lambda_min_clipped": -Infinity, "shift": 3.0}')
    file = tmp_path / "model_index.json"
    file.write_text(
        '{"_class_name": "PixArtSigmaPipeline", "transformer": ["diffusers", "PixArtTransformer2DModel"],'
        ' "scheduler": ["diffusers", "DPMSolverMultistepScheduler"]}'
    )
    known = architecture.read(file)
    assert known.settings == {"scheduler": {"shift": 3.0}}
    assert decode(encode(known), Architecture, "here") == known


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_a_deeply_nested_index_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(BadInput):
        architecture.read(tmp_path / "model_index.json")


def test_a_component_is_no_way_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "config.json").write_text('{"secret": 1}')
    (tmp_path / "model").mkdir()
    file = tmp_path / "model" / "model_index.json"
    file.write_text(
        '{"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"],'
        ' "../outside": ["diffusers", "AutoencoderKL"]}'
    )
    known = architecture.read(file)
    assert set(known.components) == {"transformer"}
    assert known.settings == {}

"""What people give as a model: an address, a checkpoint file, a variant; or one line that says what to give instead."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from tuner.errors import BadInput
from tuner.hardware.environment import detect
from tuner.model import hub, names, pipeline
from tuner.records.model import Model


def safetensors(file: Path, *weights: str) -> Path:
    """A safetensors file whose weights have no values."""
    header = json.dumps({name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in weights}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    return file


@pytest.mark.parametrize(
    ("address", "model", "revision"),
    [
        ("https://huggingface.co/org/name", "org/name", None),
        ("https://huggingface.co/org/name/", "org/name", None),
        ("http://www.huggingface.co/org/na.me-1", "org/na.me-1", None),
        ("huggingface.co/org/name", "org/name", None),
        ("https://hf.co/org/name?library=diffusers", "org/name", None),
        ("https://huggingface.co/org/name#usage", "org/name", None),
        ("https://huggingface.co/org/name/tree/main", "org/name", None),
        ("https://huggingface.co/org/name/tree/fp16/", "org/name", "fp16"),
        ("https://huggingface.co/org/name/commit/0a1b2c", "org/name", "0a1b2c"),
        ("org/name", "org/name", None),
        ("./folder", "./folder", None),
    ],
)
def test_an_address_of_the_hub_is_its_id(address: str, model: str, revision: str | None) -> None:
    assert names.from_address(address, None) == (model, revision)
    assert names.from_address(address, revision or "v1") == (model, revision or "v1")


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("https://huggingface.co/org/name/blob/main/a/x.safetensors", "hf download org/name a/x.safetensors"),
        ("https://huggingface.co/org/name/tree/main/transformer", "give org/name alone"),
        ("https://civitai.com/models/4384", "download the model and give its folder"),
        ("https://huggingface.co/org/name/tree/fp16", "--revision another: v1"),
    ],
)
def test_another_address_is_refused_with_what_to_give(address: str, remedy: str) -> None:
    with pytest.raises(BadInput, match=r"^https://") as error:
        names.from_address(address, "v1")
    assert remedy in str(error.value)


REFUSED = {
    "flux.gguf": "tune run BASE --set quantization.gguf_file={file}",
    "lora.safetensors": "tune run BASE --set lora.file={file}",
    "model.ckpt": "give the .safetensors file",
    "notes.txt": "give a pipeline's folder, a hub id or a .safetensors checkpoint",
    "torn.safetensors": "cut short in its header; download it again",
    "other.safetensors": "with --base MODEL",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_no_pipeline_is_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(b"GGUF")
    if name == "lora.safetensors":
        safetensors(file, "lora_unet_down_blocks_0.lora_down.weight")
    elif name == "other.safetensors":
        safetensors(file, "blocks.0.weight")
    with pytest.raises(BadInput, match=f"^{file}: ") as error:
        pipeline.resolve(str(file), None, None)
    assert REFUSED[name].format(file=file) in str(error.value)


@pytest.mark.parametrize(
    ("weight", "lora"),
    [
        ("lora_te_text_model.alpha", True), ("unet.up.lora_A.weight", True), ("unet.up.lora.down.weight", True),
        ("transformer.x.lora_B.weight", True), ("model.diffusion_model.out.weight", False), ("color_a.weight", False),
    ],
)  # fmt: skip
def test_loras_are_told_by_their_weights(weight: str, lora: bool) -> None:
    assert bool(names.LORA.search(weight)) == lora


@pytest.mark.parametrize(
    ("weights", "title", "is_whole"),
    [
        (("model.diffusion_model.x", "first_stage_model.x", "cond_stage_model.transformer.x"), "SD 1.5", True),
        (("model.diffusion_model.x", "first_stage_model.x", "conditioner.embedders.1.model.x"), "SDXL", True),
        (("double_blocks.0.img_attn.qkv.weight",), "FLUX.1", False),
        (("model.diffusion_model.double_blocks.0.x",), "FLUX.1", False),
        (("model.diffusion_model.joint_blocks.0.x", "first_stage_model.x"), "SD 3", True),
    ],
)
def test_the_family_of_a_checkpoint_is_told_by_its_weights(weights: Any, title: str, is_whole: bool) -> None:
    found = names.family(weights)
    assert found and found[0] == title
    assert names.holds_whole_pipeline(weights) == is_whole


def test_a_folder_that_is_no_pipeline_is_refused_with_the_one_that_is(tmp_path: Path) -> None:
    def reason(folder: Path) -> str:
        with pytest.raises(BadInput, match=f"^{folder}: ") as error:
            pipeline.resolve(str(folder), None, None)
        return str(error.value)

    for name in ("pipe/unet", "outer/pipe", "file", "lora", "empty"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("pipe", "outer/pipe"):
        (tmp_path / name / "model_index.json").write_text("{}")
    safetensors(tmp_path / "file" / "sd.safetensors", "x")
    safetensors(tmp_path / "lora" / "pytorch_lora_weights.safetensors", "x")
    assert f"give the pipeline's folder: {tmp_path / 'pipe'}" in reason(tmp_path / "pipe" / "unet")
    assert f"give the folder that has: {tmp_path / 'outer' / 'pipe'}" in reason(tmp_path / "outer")
    assert f"give its checkpoint: {tmp_path / 'file' / 'sd.safetensors'}" in reason(tmp_path / "file")
    assert "tune run BASE --set lora.file=" in reason(tmp_path / "lora")
    assert "no model_index.json" in reason(tmp_path / "empty")


@pytest.mark.parametrize(
    ("files", "asked", "found"),
    [
        (("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"), None, None),
        (("unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.safetensors"), None, "fp16"),
        (("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"), None, None),
        (("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"), "fp16", "fp16"),
        (("te/model.bf16-00001-of-00002.safetensors",), None, "bf16"),
        (("te/model-00001-of-00002.bf16.safetensors",), None, "bf16"),
        (("te/model-00001-of-00002.safetensors",), None, None),
        (("te/model.fp16.safetensors", "te/model.bf16.safetensors"), None, "choose one with --variant NAME"),
        (("te/model.fp16.safetensors",), "fp8", "--variant fp8"),
        (("te/model.safetensors",), "fp16", "no variants"),
    ],
)
def test_the_variant_is_the_asked_one_or_the_only_one(
    files: tuple[str, ...], asked: str | None, found: str | None, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    if (found and " " in found) or found == "--variant fp8":
        with pytest.raises(BadInput, match=found):
            names.choose_variant(tmp_path, asked)
    else:
        assert names.choose_variant(tmp_path, asked) == found


def found_again(model: Model) -> Model:
    """The model that its own record names, as when a study goes on."""
    return pipeline.resolve(model.source, model.revision, model.scorer, model.variant, model.base)[0]


def weights(pipe: Any) -> dict[str, Any]:
    import torch

    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    import pipelines

    pipe, folder = pipelines.build("sd15", "tiny"), tmp_path_factory.mktemp("sd15") / "base"
    pipe.save_pretrained(folder)
    return pipe, folder


@pytest.mark.parametrize("whole", [True, False])
def test_a_checkpoint_in_the_original_layout_loads_equal_to_its_pipeline(
    whole: bool, sd15: tuple[Any, Path], tmp_path: Path
) -> None:
    import original_layout
    import torch

    pipe, base = sd15
    parts = (original_layout.unet, original_layout.vae, original_layout.text_encoder)[: 3 if whole else 1]
    state = {name: value for part in parts for name, value in part(pipe).items()}
    file = original_layout.save(state, tmp_path / "model.safetensors")
    model, known = pipeline.resolve(str(file), None, "demo", None, str(base))
    assert (model.source, model.base, known.pipeline_class) == (str(file), str(base), "StableDiffusionPipeline")
    assert found_again(model) == model
    loaded, expected = weights(pipeline.load(model, detect("cpu"), "float32")), weights(pipe)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_a_folder_with_only_fp16_weights_loads_them(sd15: tuple[Any, Path], tmp_path: Path) -> None:
    sd15[0].save_pretrained(tmp_path, variant="fp16")
    model, _ = pipeline.resolve(str(tmp_path), None, "demo")
    assert model.variant == "fp16"
    assert found_again(model) == model
    assert weights(pipeline.load(model, detect("cpu"), "float32")).keys() == weights(sd15[0]).keys()


def test_a_checkpoint_without_a_base_in_reach_says_which_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(name: str, revision: str | None) -> Any:
        raise BadInput(f"{name}: could not be read from the hub")

    monkeypatch.setattr(hub, "find", offline)
    file = safetensors(tmp_path / "x.safetensors", "double_blocks.0.img_attn.qkv.weight")
    with pytest.raises(BadInput, match=f"^{file}: a checkpoint of FLUX.1 .* with --base MODEL"):
        pipeline.resolve(str(file), None, None)
    with pytest.raises(BadInput, match="--base demo: only a checkpoint file"):
        pipeline.resolve("demo", None, None, None, "demo")

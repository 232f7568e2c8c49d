"""A distilled LoRA is fused into the weights, at its scale, and nothing of it stays beside them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from drawing import CPU, GPU, draw, is_one_line, is_valid, kind, load, values
from kinds import kind as known

from tuner.errors import Unavailable
from tuner.knobs import KNOBS, NoEffect
from tuner.knobs.base import denoisers
from tuner.knobs.user_weights import unreadable_reason

Folder = Callable[[str], Path]
FILE = KNOBS["lora.file"]

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")


def lora(pipe: Any, folder: Path, strength: float = 0.5) -> str:
    """A LoRA of random weights for the attention of a pipeline's denoiser, saved as its pipeline saves them."""
    import torch
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(0)
    [denoiser] = denoisers(pipe)
    denoiser.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]))
    for name, parameter in denoiser.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=strength)
    layers = get_peft_model_state_dict(denoiser)
    part = "unet" if hasattr(pipe, "unet") else "transformer"
    pipe.save_lora_weights(folder, **{f"{part}_lora_layers": layers})
    return str(folder)


@needs_peft
@pytest.mark.parametrize(
    "family", ["flux", "flux2", "sd3", "sdxl", "sd15", "qwen-image", "z-image", "sana", "wan", "ltx"]
)
def test_it_is_fused_into_the_weights(family: str, pipeline_folder: Folder, tmp_path: Path) -> None:
    folder = pipeline_folder(family)
    given = lora(load(folder), tmp_path / "lora")
    assert FILE.unavailable_reason(given, GPU, kind(folder)) is None

    pipe = load(folder)
    untouched, names = draw(pipe, family), [name for name, _ in denoisers(pipe)[0].named_parameters()]
    line = FILE.apply(pipe, {"lora.file": given, "lora.scale": 0.5})
    assert is_one_line(line)
    assert int(line.split()[0]) == sum(name.endswith((".to_q.weight", ".to_v.weight")) for name in names)
    assert [name for name, _ in denoisers(pipe)[0].named_parameters()] == names
    fused = draw(pipe, family)
    assert is_valid(fused)
    assert not np.allclose(fused, untouched, atol=1e-4)

    beside = load(folder)
    beside.load_lora_weights(given, adapter_name="beside")
    beside.set_adapters(["beside"], [0.5])
    assert np.abs(draw(beside, family) - fused).max() < 1e-3


@needs_peft
def test_what_was_lent_stays_as_it_was(pipeline_folder: Folder, tmp_path: Path) -> None:
    """Other workers use the same memory of the GPU."""
    given = lora(load(pipeline_folder("flux")), tmp_path / "lora")
    pipe = load(pipeline_folder("flux"))
    lent = {name: parameter.data for name, parameter in pipe.transformer.named_parameters()}
    before = {name: data.clone() for name, data in lent.items()}
    FILE.apply(pipe, {"lora.file": given, "lora.scale": 1.0})
    assert all(lent[name].equal(before[name]) for name in lent)
    after = dict(pipe.transformer.named_parameters())
    assert all(after[name].data_ptr() != lent[name].data_ptr() for name in lent if lent[name].ndim == 1)


@needs_peft
def test_its_scale_counts(pipeline_folder: Folder, tmp_path: Path) -> None:
    given = lora(load(pipeline_folder("flux")), tmp_path / "lora")
    drawn = []
    for scale in (0.125, 1.0):
        pipe = load(pipeline_folder("flux"))
        FILE.apply(pipe, {"lora.file": given, "lora.scale": scale})
        drawn.append(draw(pipe, "flux"))
    assert not np.array_equal(*drawn)


@needs_peft
def test_a_file_is_given_as_well_as_a_folder(pipeline_folder: Folder, tmp_path: Path) -> None:
    given = lora(load(pipeline_folder("flux")), tmp_path / "lora")
    [file] = Path(given).glob("*.safetensors")
    assert FILE.apply(load(pipeline_folder("flux")), {"lora.file": str(file), "lora.scale": 1.0})


@needs_peft
def test_what_changes_nothing_says_so(pipeline_folder: Folder, tmp_path: Path) -> None:
    given = lora(load(pipeline_folder("flux")), tmp_path / "lora", strength=0.0)
    with pytest.raises(NoEffect, match="changed no weight"):
        FILE.apply(load(pipeline_folder("flux")), {"lora.file": given, "lora.scale": 1.0})


@needs_peft
def test_one_for_another_pipeline_says_so(pipeline_folder: Folder, tmp_path: Path) -> None:
    given = lora(load(pipeline_folder("sdxl")), tmp_path / "lora")
    with pytest.raises((Unavailable, NoEffect)) as refused:
        FILE.apply(load(pipeline_folder("flux")), {"lora.file": given, "lora.scale": 1.0})
    assert is_one_line(str(refused.value))


@needs_peft
@pytest.mark.parametrize("how", ["renamed", "empty", "pickled"])
def test_only_safetensors_are_read(how: str, pipeline_folder: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "lora"
    folder.mkdir()
    given = folder
    if how == "renamed":
        lora(load(pipeline_folder("flux")), folder)
        [file] = folder.glob("*.safetensors")
        file.rename(folder / "pytorch_lora_weights.bin")
    elif how == "pickled":
        given = folder / "pytorch_lora_weights.bin"
        given.write_bytes(b"\x80\x04]\x94.")
    with pytest.raises(Unavailable) as refused:
        FILE.apply(load(pipeline_folder("flux")), {"lora.file": str(given), "lora.scale": 1.0})
    assert is_one_line(str(refused.value))


@needs_peft
def test_it_is_fused_before_the_projections_and_before_quantization(pipeline_folder: Folder, tmp_path: Path) -> None:
    from tuner.knobs import apply_knobs

    given = lora(load(pipeline_folder("flux")), tmp_path / "lora")
    pipe = load(pipeline_folder("flux"))
    together = values({"lora.file": given, "fuse_qkv": True, "quantization.scheme": "int8-weight-only", "steps": 4})
    changes = apply_knobs(pipe, together, CPU)
    assert list(changes) == ["lora.file", "fuse_qkv", "quantization.scheme"]
    assert is_valid(draw(pipe, "flux"))


def test_it_is_refused_where_it_cannot_be_loaded(pipeline_folder: Folder, tmp_path: Path) -> None:
    flux, given = kind(pipeline_folder("flux")), str(tmp_path)
    without = msgspec.structs.replace(GPU, libraries={**GPU.libraries, "peft": None})
    assert FILE.unavailable_reason("none", without, flux) is None
    assert "pip install 'peft" in (FILE.unavailable_reason(given, without, flux) or "")
    assert "two denoisers" in (FILE.unavailable_reason(given, GPU, kind(pipeline_folder("wan22"))) or "")
    assert "loads no LoRA" in (FILE.unavailable_reason(given, GPU, kind(pipeline_folder("pixart"))) or "")
    assert "there is no" in (FILE.unavailable_reason("/nowhere/at/all", GPU, flux) or "")
    assert FILE.unavailable_reason("owner/name", GPU, flux) is None


def test_what_is_no_file_or_folder_is_not_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    assert unreadable_reason(str(tmp_path), may_be_folder=True) is None
    for path in (str(pipe), "/dev/zero", "/a\0b", "/" + "x" * 5000, f"{tmp_path}/two\nlines"):
        assert is_one_line(unreadable_reason(path))
        assert unreadable_reason(path, may_be_folder=True)
    assert "no regular file" in (unreadable_reason(str(tmp_path)) or "")
    assert "no regular file or folder" in (FILE.unavailable_reason(str(pipe), GPU, known()) or "")


@pytest.mark.parametrize(
    ("given", "is_known"),
    [("owner/name/folder/file.safetensors@main", True), ("owner/name/a..b.safetensors", True),
     ("owner/name/a/../../b.safetensors", False), ("owner/../b.safetensors", False), ("../name", False),
     ("owner/name/../b.safetensors", False), ("owner/name/a/./b.safetensors", False)],
)  # fmt: skip
def test_a_name_on_the_hub_does_not_climb(given: str, is_known: bool) -> None:
    assert (FILE.invalid_reason(given) is None) is is_known


def test_a_cache_beside_it_is_refused() -> None:
    def refusals(different: dict[str, Any]) -> list[str]:
        chosen = values({"steps": 4, **different})
        return [reason for name in chosen if (reason := KNOBS[name].conflict_reason(chosen, known()))]

    assert [is_one_line(reason) for reason in refusals({"lora.file": "/lora", "cache.kind": "first-block"})] == [True]
    assert refusals({"cache.kind": "first-block"}) == refusals({"lora.file": "/lora"}) == []


def test_its_scale_means_nothing_without_it() -> None:
    assert "lora.scale" not in values({})
    assert values({"lora.file": "/lora", "lora.scale": 0.125})["lora.scale"] == 0.125
    for junk in (0, -1, True, "1", float("nan"), 2):
        assert is_one_line(KNOBS["lora.scale"].invalid_reason(junk))

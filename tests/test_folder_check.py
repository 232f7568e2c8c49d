"""A damaged pipeline folder is refused before anything is loaded, with the file and the field."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuner.demo import PIPELINE_DIR, SCORER_DIR
from tuner.errors import BadInput
from tuner.model.folder_check import check_clip, check_folder

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"

Damage = Callable[[Path], object]


def edit(file: str, **fields: Any) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return damage


def write(file: str, data: bytes) -> Damage:
    return lambda folder: (folder / file).write_bytes(data)


def remove(name: str) -> Damage:
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def edit_header(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        change(header)
        encoded = json.dumps(header).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(encoded)) + encoded + data[8 + length :])

    return damage


def cut(share: float) -> Damage:
    def damage(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(data[: int(len(data) * share)])

    return damage


def make_nan(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    tensor = next(t for name, t in header.items() if name != "__metadata__")
    place = 8 + length + tensor["data_offsets"][0]
    data[place : place + 4] = b"\xff\xff\xff\x7f"
    (folder / WEIGHTS).write_bytes(data)


def pickle_only(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "transformer" / "diffusion_pytorch_model.bin")


def shard(missing: bool) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / WEIGHTS
        name = "diffusion_pytorch_model-00001-of-00001.safetensors"
        content = {"metadata": {}, "weight_map": {"no.such.weight": name}}
        (file.parent / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(content))
        file.rename(file.parent / ("elsewhere.safetensors" if missing else name))

    return damage


def drop_first_entry(header: dict[str, Any]) -> None:
    first = min((n for n in header if n != "__metadata__"), key=lambda name: header[name]["data_offsets"])
    del header[first]


def first_entry(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda header: next(entry for name, entry in header.items() if name != "__metadata__").update(fields)


CONFIG = "transformer/config.json"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "folder missing": (remove("vae"), "vae: model_index.json names"),
    "config missing": (remove(CONFIG), "transformer/config.json: .* missing"),
    "weights missing": (remove(WEIGHTS), "transformer: .*weights .* missing"),
    "scheduler config missing": (remove("scheduler/scheduler_config.json"), "scheduler_config.json: .* missing"),
    "pickled": (pickle_only, "transformer: only pickled weights"),
    "weights empty": (write(WEIGHTS, b""), "safetensors: the file is empty"),
    "weights short": (write(WEIGHTS, b"abc"), "safetensors: not a safetensors file"),
    "git lfs": (write(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid"), "git lfs pull"),
    "huge header": (write(WEIGHTS, b"\xff" * 64), "cut short in its header"),
    "text": (write(WEIGHTS, b"\x10" + b"\0" * 7 + b"this is not json"), "header is not JSON"),
    "list": (write(WEIGHTS, b"\x02" + b"\0" * 7 + b"[]"), "no JSON object"),
    "no tensors": (write(WEIGHTS, b"\x02" + b"\0" * 7 + b"{}"), "no weights"),
    "torn": (cut(0.9), "cut short"),
    "torn in the header": (cut(0.001), "cut short"),
    "gap": (edit_header(drop_first_entry), "gap"),
    "shape of other size": (edit_header(first_entry(shape=[3, 5])), "do not agree"),
    "negative shape": (edit_header(first_entry(shape=[-1])), "do not agree"),
    "offsets reversed": (edit_header(first_entry(data_offsets=[8, 4])), "do not agree"),
    "offsets of text": (edit_header(first_entry(data_offsets="0")), "do not agree"),
    "nan": (make_nan, "NaN"),
    "shard missing": (shard(missing=True), "names this file"),
    "shard without weight": (shard(missing=False), "no.such.weight"),
    "config torn": (write(CONFIG, b'{"num_layers": '), "config.json: not JSON"),
    "config empty": (write(CONFIG, b""), "config.json: not JSON"),
    "config list": (write(CONFIG, b"[]"), "config.json: not a JSON object"),
    "config not utf-8": (write(CONFIG, b"\xff\xfe"), "config.json: not JSON"),
    "tokenizer config torn": (write("tokenizer/tokenizer_config.json", b"{"), "tokenizer_config.json: not JSON"),
    "tokenizer empty": (write("tokenizer/tokenizer.json", b""), "tokenizer.json: not JSON"),
    "index torn": (write("model_index.json", b"{"), "model_index.json: not JSON"),
    "more layers": (edit(CONFIG, num_layers=40), "num_layers: 40"),
    "negative layers": (edit(CONFIG, num_layers=-1), "num_layers: -1"),
    "no heads": (edit(CONFIG, num_attention_heads=0), "num_attention_heads: 0"),
    "absurd width": (edit(CONFIG, joint_attention_dim=10**12), "joint_attention_dim: 1000000000000"),
    "other width": (edit(CONFIG, joint_attention_dim=77), "joint_attention_dim: 77"),
    "other channels": (edit(CONFIG, in_channels=3), "in_channels: 3"),
    "text for a number": (edit(CONFIG, attention_head_dim="16"), "attention_head_dim: 16"),
    "fraction": (edit(CONFIG, num_layers=1.5), "num_layers: 1.5"),
    "true": (edit(CONFIG, num_layers=True), "num_layers: True"),
    "NaN setting": (edit("vae/config.json", scaling_factor=float("nan")), "scaling_factor: NaN"),
    "negative channels": (edit("vae/config.json", block_out_channels=[-8, 16]), "block_out_channels: -8"),
    "other latents": (edit("vae/config.json", latent_channels=5), "latent_channels: 5"),
    "no training steps": (edit("scheduler/scheduler_config.json", num_train_timesteps=0), "num_train_timesteps: 0"),
    "other vocabulary": (edit("text_encoder/config.json", vocab_size=3), "vocab_size: 3"),
    "unknown diffusers class": (edit("model_index.json", vae=["diffusers", "NoVae"]), "vae: .* no class NoVae"),
    "unknown transformers class": (
        edit("model_index.json", text_encoder=["transformers", "NoText"]),
        "no class NoText",
    ),
    "other library": (edit("model_index.json", vae=["antigravity", "NoVae"]), "vae: antigravity"),
    "null denoiser": (edit("model_index.json", transformer=[None, None]), "transformer: .* null"),
}


@pytest.mark.parametrize("name", sorted(DAMAGES))
def test_a_damaged_folder_is_refused(name: str, tmp_path: Path) -> None:
    damage, expected = DAMAGES[name]
    shutil.copytree(PIPELINE_DIR, tmp_path / "pipeline")
    damage(tmp_path / "pipeline")
    with pytest.raises(BadInput) as error:
        check_folder(tmp_path / "pipeline")
    assert re.search(expected, str(error.value)), error.value
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_sound_folder_passes() -> None:
    check_folder(PIPELINE_DIR)
    check_clip(SCORER_DIR, "--scorer")


def test_a_text_encoder_is_no_scorer() -> None:
    with pytest.raises(BadInput, match=r"--scorer .*model_type: clip_text_model"):
        check_clip(PIPELINE_DIR / "text_encoder", "--scorer")

"""A damaged pipeline folder is refused before anything is loaded, with the file and the field."""

from __future__ import annotations

import json
import re
import shutil
import struct
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tuner.demo import PIPELINE_DIR, SCORER_DIR
from tuner.errors import BadInput
from tuner.model import folder_check
from tuner.model.folder_check import check_clip, check_folder
from tuner.model.safetensors_file import check_samples, read_header

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
VAE_WEIGHTS = "vae/diffusion_pytorch_model.safetensors"

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


def repeat(file: str, name: str) -> Damage:
    """Give a field of a JSON file a second time, first."""

    def damage(folder: Path) -> None:
        text = (folder / file).read_text()
        (folder / file).write_text(text.replace("{", f'{{"{name}": ["diffusers", "AutoencoderKL"],', 1))

    return damage


def encode(encoding: str) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "model_index.json"
        file.write_text(file.read_text(), encoding=encoding)

    return damage


def rename(old: str, new: str) -> Damage:
    return lambda folder: (folder / old).rename(folder / new)


def rename_tensors(file: str, prefix: str) -> Damage:
    def damage(folder: Path) -> None:
        weights = {prefix + name: tensor for name, tensor in read_weights(folder / file).items()}
        write_weights(folder / file, weights)

    return damage


def whole_numbers(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda header: header[name].update(dtype="I16")


def substitute(file: str, old: str, new: str) -> Damage:
    def damage(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))

    return damage


def repeat_tensor(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = data[8 : 8 + length].rstrip()
    first = header.index(b'"', 1)
    name = header[first : header.index(b":", first)]
    encoded = header[:-1] + b"," + name + header[header.index(b":", first) : header.index(b"}", first) + 1] + b"}"
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(encoded)) + encoded + data[8 + length :])


def make_nan(folder: Path, bits: bytes = b"\xff\xff\xff\x7f") -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    tensor = next(t for name, t in header.items() if name != "__metadata__")
    place = 8 + length + tensor["data_offsets"][0]
    data[place : place + 4] = bits
    (folder / WEIGHTS).write_bytes(data)


def make_inf(folder: Path) -> None:
    make_nan(folder, b"\0\x7c" * 2)


def make_minus_inf(folder: Path) -> None:
    make_nan(folder, b"\0\xfc" * 2)


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


def write_weights(file: Path, tensors: dict[str, tuple[dict[str, Any], bytes]]) -> None:
    """Write tensors, each given as its entry of a header and its bytes."""
    header, end = {}, 0
    for name, (entry, data) in tensors.items():
        header[name] = entry | {"data_offsets": [end, end + len(data)]}
        end += len(data)
    encoded = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(encoded)) + encoded + b"".join(data for _, data in tensors.values()))


def read_weights(file: Path) -> dict[str, tuple[dict[str, Any], bytes]]:
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    return {n: (e, rest[slice(*e["data_offsets"])]) for n, e in header.items() if n != "__metadata__"}


def keep_weights(file: str, keep: Callable[[str], bool]) -> Damage:
    """Leave out tensors, and the bytes of them."""

    def damage(folder: Path) -> None:
        kept = {name: tensor for name, tensor in read_weights(folder / file).items() if keep(name)}
        write_weights(folder / file, kept)

    return damage


def split(folder: Path, variant: str | None = None) -> Path:
    """Shard the denoiser's weights into two files with their index, and return the index."""
    weights, mark = read_weights(folder / WEIGHTS), f".{variant}" if variant else ""
    where = {
        name: f"diffusion_pytorch_model{mark}-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(weights)
    }
    for shard_name in set(where.values()):
        part = {name: tensor for name, tensor in weights.items() if where[name] == shard_name}
        write_weights(folder / "transformer" / shard_name, part)
    (folder / WEIGHTS).unlink()
    index = folder / "transformer" / f"diffusion_pytorch_model.safetensors.index{mark}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index


def in_shards(change: Callable[[Path, dict[str, Any]], object]) -> Damage:
    """Shard the weights, then change the index, given its file and its content."""

    def damage(folder: Path) -> None:
        index = split(folder)
        content = json.loads(index.read_text())
        change(index, content)
        index.write_text(json.dumps(content))

    return damage


def drop_shard(index: Path, content: dict[str, Any]) -> None:
    (index.parent / min(content["weight_map"].values())).unlink()


def leave_out(component: str) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "model_index.json"
        content = {name: entry for name, entry in json.loads(file.read_text()).items() if name != component}
        file.write_text(json.dumps(content))

    return damage


def empty(name: str) -> Damage:
    return lambda folder: (shutil.rmtree(folder / name), (folder / name).mkdir())


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
    "config nested": (write(CONFIG, b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}"), "config.json: nested more than 100"),
    "config empty": (write(CONFIG, b""), "config.json: not JSON"),
    "config list": (write(CONFIG, b"[]"), "config.json: not a JSON object"),
    "config not utf-8": (write(CONFIG, b"\xff\xfe"), "config.json: not JSON"),
    "tokenizer config torn": (write("tokenizer/tokenizer_config.json", b"{"), "tokenizer_config.json: not JSON"),
    "tokenizer empty": (write("tokenizer/tokenizer.json", b""), "tokenizer.json: the file is empty"),
    "tokenizer of nothing": (write("tokenizer/tokenizer.json", b"{}"), "tokenizer/tokenizer.json: model: "),
    "merges of garbage": (write("tokenizer/merges.txt", b"garbage"), "tokenizer/merges.txt: line 1: garbage"),
    "index twice": (repeat("model_index.json", "vae"), "model_index.json: vae: the name is there twice"),
    "config twice": (repeat("vae/config.json", "scaling_factor"), "vae/config.json: scaling_factor: .* twice"),
    "scheduler twice": (repeat("scheduler/scheduler_config.json", "shift"), "scheduler_config.json: shift: .* twice"),
    "name of a token twice": (
        repeat("tokenizer/tokenizer_config.json", "model_max_length"),
        "tokenizer_config.json: model_max_length: the name is there twice",
    ),
    "tensor twice": (repeat_tensor, "header is not JSON"),
    "unknown blocks": (edit("vae/config.json", down_block_types=["Foo"]), "vae/config.json: down_block_types: Foo"),
    "unknown activation": (edit("vae/config.json", act_fn="swishh"), "act_fn: swishh is unknown; did you mean swish"),
    "text for a shift": (edit("scheduler/scheduler_config.json", shift="abc"), "scheduler_config.json: shift: 'abc'"),
    "infinite shift": (edit("scheduler/scheduler_config.json", shift=float("inf")), "shift: inf is not a finite"),
    "shift too large for JSON": (
        substitute("scheduler/scheduler_config.json", '"shift": 1.0', '"shift": 1e999'),
        "inf",
    ),
    "no scale": (edit("vae/config.json", scaling_factor=0), "vae/config.json: scaling_factor: 0 is not above 0"),
    "config of another class": (
        edit("vae/config.json", _class_name="AutoencoderKLWan"),
        "vae/config.json: _class_name: AutoencoderKLWan, but .*model_index.json: vae names AutoencoderKL",
    ),
    "config of another encoder": (
        edit("text_encoder/config.json", architectures=["T5EncoderModel"]),
        "text_encoder/config.json: architectures: T5EncoderModel, but .*model_index.json: text_encoder names CLIPText",
    ),
    "component elsewhere": (
        edit("model_index.json", **{"../x": ["diffusers", "AutoencoderKL"]}),
        r"\.\./x: the name of",
    ),
    "component of null class": (edit("model_index.json", vae=["diffusers", None]), "vae: .* is not a library and a"),
    "UTF-16": (encode("utf-16"), "model_index.json: not JSON in UTF-8"),
    "byte order mark": (encode("utf-8-sig"), "model_index.json: not JSON in UTF-8"),
    "weights of another name": (rename(WEIGHTS, "transformer/my.safetensors"), "my.safetensors: no loader reads"),
    "shards without an index": (
        rename(WEIGHTS, "transformer/diffusion_pytorch_model-00001-of-00002.safetensors"),
        "00001-of-00002.safetensors: their index.* is missing",
    ),
    "weights of whole numbers": (edit_header(whole_numbers("x_embedder.weight")), "I16: whole numbers"),
    "type of no sort": (edit_header(first_entry(dtype="F99")), "do not agree"),
    "metadata of a number": (edit_header(lambda header: header.update(__metadata__=3)), "__metadata__: it is no obj"),
    "metadata nested": (edit_header(lambda header: header.update(__metadata__={"a": {}})), "__metadata__: it holds t"),
    "weights of another layout": (
        rename_tensors(VAE_WEIGHTS, "first_stage_model."),
        "first_stage_model.*: no weight of AutoencoderKL",
    ),
    "denoiser's weights in the VAE": (
        lambda folder: shutil.copy(folder / WEIGHTS, folder / VAE_WEIGHTS),
        "vae/.*: no weight of AutoencoderKL",
    ),
    "VAE of another sort": (
        lambda folder: (
            edit("model_index.json", vae=["diffusers", "AutoencoderKLWan"])(folder),
            write("vae/config.json", b"{}")(folder),
        ),
        "decoder.conv_in.weight: AutoencoderKLWan has 5 dimensions",
    ),
    "config of nothing": (write("vae/config.json", b"{}"), "decoder.conv_in.weight: its shape is .*latent_channels: 4"),
    "encoder's config of nothing": (write("text_encoder/config.json", b"{}"), "text_encoder/config.json: model_type: "),
    "guidance without weights": (edit(CONFIG, guidance_embeds=True), "guidance_embedder.*guidance_embeds: True"),
    "inner width": (edit("text_encoder/config.json", intermediate_size=99), "mlp.fc1.weight.*intermediate_size: 99"),
    "denoiser of another pipeline": (
        edit("model_index.json", transformer=["diffusers", "SD3Transformer2DModel"]),
        "transformer: SD3Transformer2DModel: FluxPipeline takes FluxTransformer2DModel here",
    ),
    "inf": (make_inf, "has weights that are infinite"),
    "-inf": (make_minus_inf, "has weights that are infinite"),
    "index torn": (write("model_index.json", b"{"), "model_index.json: not JSON"),
    "more layers": (edit(CONFIG, num_layers=40), "num_layers: 40"),
    "negative layers": (edit(CONFIG, num_layers=-1), "num_layers: -1"),
    "no heads": (edit(CONFIG, num_attention_heads=0), "num_attention_heads: 0"),
    "absurd width": (edit(CONFIG, joint_attention_dim=10**12), "joint_attention_dim: 1000000000000"),
    "other width": (edit(CONFIG, joint_attention_dim=77), "joint_attention_dim: 77"),
    "other channels": (edit(CONFIG, in_channels=3), "in_channels: 3"),
    "text for a number": (edit(CONFIG, attention_head_dim="16"), "attention_head_dim: .16. is not a whole"),
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
    "no vocabulary": (remove("tokenizer/tokenizer.json"), "tokenizer: .*vocabulary"),
    "vocabulary torn": (write("tokenizer/tokenizer.json", b'{"version": '), "tokenizer.json: not JSON"),
    "component left out": (leave_out("vae"), "model_index.json: vae: .* missing"),
    "component of one": (edit("model_index.json", vae=["diffusers"]), "vae: .* is not a library and a class"),
    "component of a number": (edit("model_index.json", scheduler=3), "scheduler: 3 is not a library and a class"),
    "scheduler for a VAE": (
        edit("model_index.json", vae=["diffusers", "DDIMScheduler"]),
        "DDIMScheduler is not one of diffusers' models",
    ),
    "model for a scheduler": (
        edit("model_index.json", scheduler=["diffusers", "AutoencoderKL"]),
        "not one of diffusers' schedulers",
    ),
    "fast tokenizer of no sort": (
        edit("model_index.json", tokenizer=["transformers", "NoSuchTokenizerFast"]),
        "no class NoSuchTokenizerFast",
    ),
    "module of the system": (edit("model_index.json", vae=["os.path", "join"]), "vae: os.path is neither"),
    "empty folder": (empty("tokenizer"), "tokenizer: the folder is empty"),
    "fewer blocks": (
        keep_weights(WEIGHTS, lambda name: not name.startswith("transformer_blocks.0.")),
        "transformer_blocks: the weights",
    ),
    "a weight left out": (keep_weights(WEIGHTS, lambda name: name != "x_embedder.weight"), "x_embedder.weight"),
    "no query weights": (
        keep_weights("text_encoder/model.safetensors", lambda name: not name.endswith("q_proj.weight")),
        "layers.0.self_attn.q_proj.weight",
    ),
    "no weights of a layer's second product": (
        keep_weights("text_encoder/model.safetensors", lambda name: not name.endswith("layers.0.mlp.fc2.weight")),
        "layers.0.mlp.fc2.weight",
    ),
    "fewer text layers": (edit("text_encoder/config.json", num_hidden_layers=90), "num_hidden_layers: 90"),
    "other text width": (edit("text_encoder/config.json", hidden_size=24), "hidden_size: 24"),
    "other heads": (edit(CONFIG, num_attention_heads=9), "num_attention_heads: 9"),
    "other patches": (edit("vae/config.json", out_channels=7), "out_channels: 7"),
    "infinite size": (edit(CONFIG, num_layers=float("inf")), "num_layers: inf"),
    "nested size": (edit("text_encoder/config.json", text_config={"hidden_size": -4}), "text_config.hidden_size: -4"),
    "shard gone": (in_shards(drop_shard), "names this file, and it is missing"),
    "shard torn": (
        in_shards(lambda index, _: next(iter(index.parent.glob("*-of-*"))).write_bytes(b"\x08")),
        "not a safetensors file",
    ),
    "index of shards empty": (in_shards(lambda _, content: content.update(weight_map={})), "weight_map: it must name"),
    "index of shards a list": (in_shards(lambda _, content: content.update(weight_map=[])), "weight_map: it must name"),
    "shard elsewhere": (
        in_shards(lambda _, content: content["weight_map"].update(x="../../elsewhere.safetensors")),
        "not a file beside",
    ),
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


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_sound_shards_pass(variant: str | None, tmp_path: Path) -> None:
    shutil.copytree(PIPELINE_DIR, tmp_path / "pipeline")
    split(tmp_path / "pipeline", variant)
    check_folder(tmp_path / "pipeline", variant)


def test_a_variant_passes_and_plain_weights_beside_it_are_not_looked_at(tmp_path: Path) -> None:
    shutil.copytree(PIPELINE_DIR, tmp_path / "pipeline")
    file = tmp_path / "pipeline" / WEIGHTS
    shutil.copy(file, file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    file.write_bytes(b"torn")
    check_folder(tmp_path / "pipeline", "fp16")
    with pytest.raises(BadInput, match="not a safetensors file"):
        check_folder(tmp_path / "pipeline")


def test_what_is_not_downloaded_yet_is_not_asked_for(tmp_path: Path) -> None:
    """The hub's cache has the configurations first."""
    shutil.copytree(PIPELINE_DIR, tmp_path / "pipeline", ignore=shutil.ignore_patterns("*.safetensors", "tokenizer*"))
    check_folder(tmp_path / "pipeline", has_weights=False)
    edit(CONFIG, num_layers=-3)(tmp_path / "pipeline")
    with pytest.raises(BadInput, match="num_layers: -3"):
        check_folder(tmp_path / "pipeline", has_weights=False)


def no_model_type(folder: Path, architectures: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"architectures": architectures}
    del config["model_type"]
    (folder / "config.json").write_text(json.dumps(config))


def test_a_scorer_without_a_model_type_is_known_by_its_architecture(tmp_path: Path) -> None:
    shutil.copytree(SCORER_DIR, tmp_path / "scorer")
    no_model_type(tmp_path / "scorer", ["CLIPModel"])
    check_clip(tmp_path / "scorer", "--scorer")


SCORER_DAMAGES: dict[str, tuple[Damage, str]] = {
    "another model": (edit("config.json", model_type="siglip"), "model_type: siglip"),
    "no weights": (remove("model.safetensors"), "weights .* missing"),
    "torn": (lambda folder: (folder / "model.safetensors").write_bytes(b"torn"), "not a safetensors file"),
    "no projection": (
        keep_weights("model.safetensors", lambda name: name != "visual_projection.weight"),
        "visual_proj",
    ),
    "fewer layers": (edit("config.json", text_config={"num_hidden_layers": 99, "vocab_size": 9}), "vocab_size: 9"),
    "settings that are a number": (edit("config.json", text_config=0.5), "text_config: 0.5 is not an object"),
    "settings that are a list": (edit("config.json", vision_config=[]), r"vision_config: \[\] is not an object"),
    "architectures that are a number": (lambda folder: no_model_type(folder, 0.5), "model_type: None"),
    "negative size": (edit("config.json", vision_config={"hidden_size": -1}), "vision_config.hidden_size: -1"),
    "no tokenizer": (remove("tokenizer.json"), "vocabulary"),
    "no image processor": (remove("processor_config.json"), "image processor's settings"),
    "processor torn": (write("processor_config.json", b"{"), "processor_config.json: not JSON"),
}


@pytest.mark.parametrize("name", SCORER_DAMAGES)
def test_a_damaged_scorer_is_refused(name: str, tmp_path: Path) -> None:
    damage, expected = SCORER_DAMAGES[name]
    shutil.copytree(SCORER_DIR, tmp_path / "scorer")
    damage(tmp_path / "scorer")
    with pytest.raises(BadInput) as error:
        check_clip(tmp_path / "scorer", "--scorer")
    assert re.search(expected, str(error.value)), error.value


def test_a_text_encoder_is_no_scorer() -> None:
    with pytest.raises(BadInput, match=r"--scorer .*model_type: clip_text_model"):
        check_clip(PIPELINE_DIR / "text_encoder", "--scorer")


def test_each_header_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(PIPELINE_DIR, tmp_path / "pipeline")
    split(tmp_path / "pipeline")
    read: list[Path] = []
    monkeypatch.setattr(folder_check, "read_header", lambda file: read.append(file) or read_header(file))
    check_folder(tmp_path / "pipeline")
    assert len(set(read)) == len(read) == len(list((tmp_path / "pipeline").rglob("*.safetensors")))


@pytest.mark.parametrize(
    ("dtype", "data", "found"),
    [
        ("F64", struct.pack("<d", float("inf")), "infinite"),
        ("F32", struct.pack("<f", float("nan")), "NaN"),
        ("BF16", b"\x80\xff", "infinite"),
        ("F16", b"\xff\xff", "NaN"),
        ("F8_E5M2", b"\x7c", "infinite"),
        ("F8_E5M2", b"\xff", "NaN"),
        ("F8_E4M3", b"\xff", "NaN"),
        ("F8_E4M3", b"\x7c", None),
        ("F32", struct.pack("<f", 3.4e38), None),
        ("I32", b"\xff\xff\xff\x7f", None),
    ],
)
def test_what_is_not_finite_is_found_in_every_type(dtype: str, data: bytes, found: str | None, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    write_weights(file, {"weight": ({"dtype": dtype, "shape": [3]}, bytes(len(data)) * 2 + data)})
    with nullcontext() if found is None else pytest.raises(BadInput, match=f"weight: has weights that are {found}"):
        check_samples(file, read_header(file), time.monotonic() + 9)


def test_a_mask_may_be_infinite(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    write_weights(file, {"causal_mask": ({"dtype": "F16", "shape": [1]}, b"\x00\xfc")})
    check_samples(file, read_header(file), time.monotonic() + 9)

"""What a user may give as a model besides a folder or a hub id: the hub's web address, or a file of weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tuner.errors import BadInput
from tuner.model.safetensors_file import read_header

HUB_ADDRESS = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<id>[\w.-]+/[\w.-]+?)"
    r"(?:/(?P<view>tree|blob|resolve|commit)/(?P<revision>[\w.%-]+)(?P<path>/[^?#]*)?)?/?(?:[?#].*)?"
)

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
LORA = re.compile(r"lora_(up|down|A|B)\b|\.lora\.|^lora_|lora_linear_layer|\.lokr_|\.hada_|\.dora_scale")
VARIANT = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<early>[\w]+))?(?:-\d{5}-of-\d{5})?(?:\.(?P<late>[\w]+))?\.safetensors"
)
BASES = (
    ("conditioner.embedders.1.", "SDXL", "stabilityai/stable-diffusion-xl-base-1.0"),
    ("cond_stage_model.model.", "SD 2", "stabilityai/stable-diffusion-2-1"),
    ("cond_stage_model.", "SD 1.5", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
    ("double_blocks.", "FLUX.1", "black-forest-labs/FLUX.1-dev"),
    ("joint_blocks.", "SD 3", "stabilityai/stable-diffusion-3-medium-diffusers"),
)
"""What the name of some weight begins with in an original checkpoint, its family, and a pipeline of that family."""

DENOISER_PREFIX = "model.diffusion_model."
VAE_PREFIXES = ("first_stage_model.", "vae.")


# ---- addresses ------------------------------------------------------------------------------------------------------


def from_address(name: str, revision: str | None) -> tuple[str, str | None]:
    """Return the hub id and the revision of an address of the hub's; other names stay as they are.

    Raises BadInput for an address of something else.
    """
    match = HUB_ADDRESS.fullmatch(name.strip())
    if match is None:
        if re.match(r"https?://", name.strip()):
            raise BadInput(f"{name}: not an address of huggingface.co; download the model and give its folder")
        return name, revision
    path = (match["path"] or "").strip("/")
    if path:
        raise BadInput(
            f"{name}: a part of the repository {match['id']}; give {match['id']} alone, or download this part first: "
            f"hf download {match['id']} {path}"
        )
    shown = match["revision"] if match["revision"] != "main" else None
    if shown and revision and shown != revision:
        raise BadInput(f"{name}: the address names the revision {shown}, --revision another: {revision}")
    return match["id"], revision or shown


# ---- files ----------------------------------------------------------------------------------------------------------


def check_file(file: Path) -> tuple[str, ...]:
    """Return the names of the weights of an original checkpoint.

    Raises BadInput with what to do for a file that is no checkpoint of a pipeline or of its denoiser.
    """
    if file.suffix == ".gguf":
        raise BadInput(
            f"{file}: a GGUF file holds the denoiser only; give the pipeline that it belongs to as BASE: "
            f"tune run BASE --set quantization.gguf_file={file}"
        )
    if file.suffix in PICKLES:
        raise BadInput(f"{file}: pickled weights can run code and are not read; give the .safetensors file")
    if file.suffix != ".safetensors":
        raise BadInput(f"{file}: not a model; give a pipeline's folder, a hub id or a .safetensors checkpoint")
    names = weight_names(file)
    if any(LORA.search(name) for name in names):
        raise BadInput(f"{file}: {lora_remedy(file)}")
    if (file.parent.parent / "model_index.json").is_file():
        raise BadInput(f"{file}: the weights of one component; give the pipeline's folder: {file.parent.parent}")
    return names


def lora_remedy(file: Path) -> str:
    """Return what to do with a LoRA."""
    return (
        f"a LoRA, not a pipeline; give the pipeline that it belongs to as BASE: tune run BASE --set lora.file={file} "
        "compares BASE with and without it; or fuse it and tune the folder: "
        f"pipe.load_lora_weights({str(file)!r}); pipe.fuse_lora(); pipe.unload_lora_weights(); "
        "pipe.save_pretrained('FOLDER')"
    )


def weight_names(file: Path) -> tuple[str, ...]:
    """Read the names of the weights in a safetensors file. Raises BadInput if its header is not sound."""
    return tuple(read_header(file).tensors)


def family(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the family of an original checkpoint and a pipeline on the hub of that family, or None."""
    bare = [name.removeprefix(DENOISER_PREFIX) for name in names]
    for beginning, title, base in BASES:
        if any(name.startswith(beginning) for name in bare):
            return title, base
    return None


def holds_whole_pipeline(names: Iterable[str]) -> bool:
    """Return whether a checkpoint holds more than the denoiser."""
    return any(name.startswith(VAE_PREFIXES) for name in names)


# ---- folders --------------------------------------------------------------------------------------------------------


def no_pipeline_reason(folder: Path) -> str:
    """Return why a folder without a model_index.json is no pipeline, and what to give instead."""
    if (folder.parent / "model_index.json").is_file():
        return f"a component of a pipeline; give the pipeline's folder: {folder.parent}"
    files = _names_in(folder)
    lora = next((name for name in files if "lora" in name.lower() and name.endswith(".safetensors")), None)
    if lora or "adapter_config.json" in files:
        return lora_remedy(folder / lora if lora else folder)
    checkpoints = [name for name in files if name.endswith((".safetensors", ".gguf"))]
    nested = [name for name in files if (folder / name / "model_index.json").is_file()]
    if nested:
        return f"not a diffusers pipeline, it has no model_index.json; give the folder that has: {folder / nested[0]}"
    if checkpoints:
        return f"not a diffusers pipeline, it has no model_index.json; give its checkpoint: {folder / checkpoints[0]}"
    return "not a diffusers pipeline, it has no model_index.json"


def choose_variant(folder: Path, asked: str | None) -> str | None:
    """Return the variant of the weights in a folder to load, None for plain ones. Raises BadInput as `variant_of`."""
    components = filter(os.path.isdir, (folder / name for name in _names_in(folder)))
    return variant_of(str(folder), {component.name: _names_in(component) for component in components}, asked)


def variant_of(where: str, components: Mapping[str, Iterable[str]], asked: str | None) -> str | None:
    """Return the variant of the weights to load: the one asked for, or the only one of a component without plain ones.

    `components` are the names of files by component. Raises BadInput if no component has the variant, or if several
    would do.
    """
    variants: set[str] = set()
    needed: list[set[str]] = []
    for files in components.values():
        found = {_variant(match) for match in map(VARIANT.fullmatch, files) if match}
        variants |= found - {""}
        if found and "" not in found:
            needed.append(found)
    if asked is not None:
        if asked not in variants:
            raise BadInput(f"--variant {asked}: {where} has {', '.join(sorted(variants)) or 'no variants'}")
        return asked
    if not needed:
        return None
    common = sorted(set.intersection(*needed))
    if len(common) != 1:
        names = ", ".join(sorted(variants))
        raise BadInput(f"{where}: it has only variants of its weights, {names}; choose one with --variant NAME")
    return common[0]


def _variant(match: re.Match[str]) -> str:
    return match["early"] or match["late"] or ""


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []

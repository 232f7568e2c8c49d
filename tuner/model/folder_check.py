"""Check a pipeline's folder before anything of it is loaded: index, classes, configurations, headers of the weights.

What is not known for certain to be wrong passes: loading it will tell.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.errors import BadInput
from tuner.model import agreeing_settings, component_classes, declared_choices, declared_settings, shapes
from tuner.model.json_file import read_object, shown
from tuner.model.safetensors_file import Header, Tensor, check_samples, read_header
from tuner.model.vocabulary import check_vocabulary

SAMPLING_S = 0.5
"""Seconds in which weights are sampled for NaN and infinity."""

WITHOUT_WEIGHTS = re.compile(r"Tokenizer|Processor|FeatureExtractor|Scheduler|CommonBackend")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
OTHER_NAME = "no loader reads a file of this name; it is diffusion_pytorch_model or model, with or without a variant"
JSON_FILES = (
    "config.json", "scheduler_config.json", "preprocessor_config.json", "processor_config.json",
    "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "added_tokens.json",
)  # fmt: skip
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
ROOT_FILES = ("config.json", "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json")
"""What lies in a pipeline's own folder if a component does."""


def check_folder(folder: Path, variant: str | None = None, *, has_weights: bool = True) -> None:
    """Check the folder of a pipeline, what takes longest last.

    Without `has_weights` only what is there is checked, and no weights. Raises BadInput with the file and the field of
    the first fault.
    """
    file = folder / "model_index.json"
    classes = _check_index(file)
    here = [name for name in classes if _is_checked(folder, name, has_weights)]
    configs = {name: _check_component(file, name, classes[name], has_weights=has_weights) for name in here}
    weighted = [name for name in here if has_weights and not WITHOUT_WEIGHTS.search(classes[name])]
    headers = [_check_weights(folder / name, classes[name], configs[name], variant) for name in weighted]
    for found in headers:
        _check_samples(found, SAMPLING_S / len(headers))


def _check_index(file: Path) -> dict[str, str]:
    """Check the index of a pipeline, and return the class of each component."""
    index = read_object(file)
    component_classes.check_required(file, index)
    components = dict(component_classes.components(file, index))
    declared_settings.check_settings(
        file, "pipelines", str(index.get("_class_name")), {k: v for k, v in index.items() if not isinstance(v, list)}
    )
    component_classes.check_declared(file, index, components)
    for component, (library, class_name) in components.items():
        component_classes.check_class(file, component, library, class_name)
    return {component: class_name for component, (_, class_name) in components.items()}


def _is_checked(folder: Path, component: str, has_weights: bool) -> bool:
    """Return whether a component's folder is checked. One that is missing may lie in the pipeline's own folder."""
    is_elsewhere = any((folder / name).is_file() for name in ROOT_FILES)
    return (folder / component).is_dir() or (has_weights and not is_elsewhere)


def check_clip(folder: Path, option: str) -> None:
    """Check the folder of a CLIP model that an option names. Raises BadInput with the option or the file."""
    config = read_object(folder / "config.json")
    kind = config.get("model_type", "clip" if "CLIPModel" in str(config.get("architectures")) else None)
    if kind != "clip":
        raise BadInput(
            f"{option} {folder}: config.json: model_type: {str(kind)[:80]}: not a CLIP model, which has clip"
        )
    shapes.check_sizes(folder / "config.json", config)
    component_classes.check_transformers_config(folder / "config.json", "CLIPModel", config)
    headers = _check_weights(folder, "CLIPModel", config, None)
    tensors = {name for header in headers.values() for name in header.tensors}
    for name in ("visual_projection.weight", "text_projection.weight"):
        if name not in tensors:
            raise BadInput(f"{option} {folder}: {name}: this weight of a CLIP model is missing")
    settings = [folder / name for name in PROCESSOR_FILES if (folder / name).is_file()]
    if not settings:
        raise BadInput(f"{option} {folder}: {PROCESSOR_FILES[0]}: the image processor's settings are missing")
    read_object(settings[0])
    check_vocabulary(folder)
    _check_samples(headers, SAMPLING_S)


def _check_component(index: Path, component: str, class_name: str, *, has_weights: bool) -> Mapping[str, Any]:
    """Check the folder of one component but for its weights, and return its configuration."""
    folder = index.parent / component
    if not folder.is_dir():
        raise BadInput(f"{folder}: model_index.json names this component, and its folder is missing")
    contents = {name: read_object(folder / name) for name in JSON_FILES if (folder / name).is_file()}
    file = folder / config_name(class_name)
    config = contents.get(file.name, {})
    component_classes.check_agreement(index, file, component, class_name, config)
    if has_weights:
        _check_present(folder, class_name, file.name, contents)
    _check_config(file, class_name, config)
    return config


def config_name(class_name: str) -> str:
    """Return the name of the file with a component's configuration."""
    return "scheduler_config.json" if class_name.endswith("Scheduler") else "config.json"


def _check_config(file: Path, class_name: str, config: Mapping[str, Any]) -> None:
    """Check the settings of a component: sizes, types, ranges, names."""
    shapes.check_sizes(file, config)
    part = component_classes.diffusers_folder(class_name)
    if part is not None:
        declared_settings.check_settings(file, part, class_name, config)
        declared_choices.check_choices(file, part, class_name, config)
    elif file.is_file() and not WITHOUT_WEIGHTS.search(class_name):
        component_classes.check_transformers_config(file, class_name, config)
    agreeing_settings.check_agreeing(file, class_name, config)


def _check_present(folder: Path, class_name: str, config_file: str, contents: Mapping[str, Any]) -> None:
    """Check that the files which a class cannot be loaded without are there."""
    is_scheduler = class_name.endswith("Scheduler")
    if (is_scheduler or not WITHOUT_WEIGHTS.search(class_name)) and config_file not in contents:
        what = "scheduler" if is_scheduler else "component"
        raise BadInput(f"{folder / config_file}: the {what}'s configuration is missing")
    if not any(folder.iterdir()):
        raise BadInput(f"{folder}: the folder is empty, {class_name} needs its files")
    if "Tokenizer" in class_name:
        check_vocabulary(folder, class_name)


# ---- weights --------------------------------------------------------------------------------------------------------


def _check_weights(
    folder: Path, class_name: str, config: Mapping[str, Any], variant: str | None
) -> Mapping[Path, Header]:
    """Check the headers of a component's weights, and return them by file."""
    headers = _headers(folder, variant)
    tensors: dict[str, Tensor] = {
        name: tensor for header in headers.values() for name, tensor in header.tensors.items()
    }
    first = next(iter(headers))
    if not tensors:
        raise BadInput(f"{first}: the file holds no weights; download it again")
    if "quantization_config" not in config:
        shapes.check_shapes(first if len(headers) == 1 else folder, class_name, config, tensors)
    return headers


def _check_samples(headers: Mapping[Path, Header], sampling_s: float) -> None:
    until = time.monotonic() + sampling_s
    for file, header in headers.items():
        check_samples(file, header, until)


def _headers(folder: Path, variant: str | None) -> Mapping[Path, Header]:
    """Return the headers of the files of a component's weights that would be loaded."""
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        if any(any(folder.glob(pattern)) for pattern in PICKLED):
            raise BadInput(
                f"{folder}: only pickled weights, which can run code and are not read; write safetensors with "
                "save_pretrained(FOLDER, safe_serialization=True)"
            )
        raise BadInput(f"{folder}: the component's weights (*.safetensors) are missing; download them again")
    marks = (f".{variant}", "") if variant else ("",)
    for mark in marks:
        for base in ("diffusion_pytorch_model", "model"):
            whole = folder / f"{base}{mark}.safetensors"
            if whole in found:
                return {whole: read_header(whole)}
            for index in (f"{base}.safetensors.index{mark}.json", f"{base}{mark}.safetensors.index.json"):
                if (folder / index).is_file():
                    return _shards(folder / index)
    what = (
        "their index, such as model.safetensors.index.json, is missing" if SHARD.search(found[0].name) else OTHER_NAME
    )
    raise BadInput(f"{found[0]}: {what}")


def _shards(index: Path) -> Mapping[Path, Header]:
    """Return the headers of the files that an index of sharded weights names. Raises BadInput if one is missing."""
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadInput(f"{index}: weight_map: it must name the file of every weight; download the file again")
    names = set(map(str, weight_map.values()))
    for name in sorted(names):
        if Path(name).name != name:
            raise BadInput(f"{index}: weight_map: {shown(name)} is not a file beside it")
        if not (index.parent / name).is_file():
            raise BadInput(f"{index.parent / name}: {index.name} names this file, and it is missing")
    headers = {name: read_header(index.parent / name) for name in sorted(names)}
    for weight, name in sorted(weight_map.items()):
        if weight not in headers[str(name)].tensors:
            raise BadInput(f"{index.parent / name}: {shown(weight)}: {index.name} names this weight, it is missing")
    return {index.parent / name: header for name, header in headers.items()}

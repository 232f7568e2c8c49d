"""Check a pipeline's folder before anything of it is loaded: index, classes, configurations, headers of the weights.

What is not known for certain to be wrong passes: loading it will tell.
"""

from __future__ import annotations

import importlib.util
import json
import re
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tuner.errors import BadInput
from tuner.files import read_file
from tuner.model import diffusers_source, shapes
from tuner.model.safetensors_file import Tensor, check_samples, read_header

SAMPLING_S = 0.8
"""Seconds in which weights are sampled for NaN."""

MAX_JSON_BYTES = 64 << 20
WITHOUT_WEIGHTS = re.compile(r"Tokenizer|Processor|FeatureExtractor|Scheduler")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
JSON_FILES = (
    "config.json", "scheduler_config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json",
    "special_tokens_map.json", "generation_config.json",
)  # fmt: skip


def check_folder(folder: Path, variant: str | None = None) -> None:
    """Check the folder of a pipeline. Raises BadInput with the file and the field of the first fault."""
    until = time.monotonic() + SAMPLING_S
    index = read_object(folder / "model_index.json")
    for component, (library, class_name) in _components(folder / "model_index.json", index):
        _check_class(folder / "model_index.json", component, library, class_name)
        check_component(folder / component, class_name, variant, until)


def check_clip(folder: Path, option: str) -> None:
    """Check the folder of a CLIP model that an option names. Raises BadInput with the option or the file."""
    config = read_object(folder / "config.json")
    kind = config.get("model_type")
    if kind != "clip" and "CLIPModel" not in (config.get("architectures") or ()):
        raise BadInput(
            f"{option} {folder}: config.json: model_type: {str(kind)[:80]}: not a CLIP model, which has clip"
        )
    tensors = _check_weights(folder, "CLIPModel", config, None, time.monotonic() + SAMPLING_S)
    for name in ("visual_projection.weight", "text_projection.weight"):
        if name not in tensors:
            raise BadInput(f"{option} {folder}: {name}: this weight of a CLIP model is missing")


def check_component(folder: Path, class_name: str, variant: str | None, until: float) -> None:
    """Check the folder of one component."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: model_index.json names this component, and its folder is missing")
    contents = {name: read_object(folder / name) for name in JSON_FILES if (folder / name).is_file()}
    config_name = "scheduler_config.json" if class_name.endswith("Scheduler") else "config.json"
    if WITHOUT_WEIGHTS.search(class_name):
        if class_name.endswith("Scheduler") and config_name not in contents:
            raise BadInput(f"{folder / config_name}: the scheduler's configuration is missing")
        if not any(folder.iterdir()):
            raise BadInput(f"{folder}: the folder is empty, {class_name} needs its files")
    elif config_name not in contents:
        raise BadInput(f"{folder / config_name}: the component's configuration is missing")
    config = contents.get(config_name, {})
    shapes.check_sizes(folder / config_name, config)
    if not WITHOUT_WEIGHTS.search(class_name):
        _check_weights(folder, class_name, config, variant, until)


def read_object(file: Path) -> dict[str, Any]:
    """Read a file with one JSON object. Raises BadInput with the file."""
    try:
        content = json.loads(read_file(file, MAX_JSON_BYTES))
    except (ValueError, RecursionError):
        raise BadInput(f"{file}: not JSON, empty or cut short; download it again") from None
    if not isinstance(content, dict):
        raise BadInput(f"{file}: not a JSON object; download it again")
    return content


# ---- classes --------------------------------------------------------------------------------------------------------


def _components(file: Path, index: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the components that the pipeline's class takes, with their library and class."""
    for component, entry in index.items():
        match entry:
            case [str(library), str(class_name)] if component.isidentifier():
                yield component, (library, class_name)
            case [None, _] | [_, None] if component in ("transformer", "unet", "vae", "scheduler"):
                other = component == "transformer" and isinstance(index.get("transformer_2"), list)
                if not other:
                    raise BadInput(f"{file}: {component}: the component is null, and the pipeline needs it")


def _check_class(file: Path, component: str, library: str, class_name: str) -> None:
    if library == "transformers":
        is_known = _is_transformers_class(class_name)
    elif library == "diffusers" or (_root("diffusers") / "pipelines" / library).exists():
        is_known = any(
            class_name in diffusers_source.class_files(part) for part in ("models", "schedulers", "pipelines")
        )
    else:
        raise BadInput(
            f"{file}: {component}: {library[:80]} is neither diffusers nor transformers: no other code is run"
        )
    if not is_known:
        raise BadInput(f"{file}: {component}: the installed {library} has no class {class_name[:80]}; is it too old?")


@cache
def _is_transformers_class(name: str) -> bool:
    """Return whether transformers has a class. Its names of old tokenizers and processors are not all written out."""
    if re.search(r"(Fast|FeatureExtractor)$", name) or not (_root("transformers") / "models").is_dir():
        return True
    models = _root("transformers") / "models"
    word = re.compile(rb"\b%s\b" % re.escape(name.encode()))
    if any(word.search(file.read_bytes()) for file in sorted((models / "auto").glob("*.py"))):
        return True
    declared = re.compile(rb"^(?:class )?%s\b" % re.escape(name.encode()), re.MULTILINE)
    return any(declared.search(file.read_bytes()) for file in models.rglob("*.py"))


def _root(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin else Path("/nonexistent")


# ---- weights --------------------------------------------------------------------------------------------------------


def _check_weights(
    folder: Path, class_name: str, config: Mapping[str, Any], variant: str | None, until: float
) -> Mapping[str, Tensor]:
    """Check the files of a component's weights, and return its tensors by name."""
    files = _weight_files(folder, variant)
    headers = {file: read_header(file) for file in files}
    tensors = {name: tensor for header in headers.values() for name, tensor in header.tensors.items()}
    if not tensors:
        raise BadInput(f"{files[0]}: the file holds no weights; download it again")
    if "quantization_config" not in config:
        shapes.check_shapes(files[0] if len(files) == 1 else folder, class_name, config, tensors)
    for file, header in headers.items():
        check_samples(file, header, until)
    return tensors


def _weight_files(folder: Path, variant: str | None) -> list[Path]:
    """Return the files of a component's weights that would be loaded."""
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
                return [whole]
            for index in (f"{base}.safetensors.index{mark}.json", f"{base}{mark}.safetensors.index.json"):
                if (folder / index).is_file():
                    return _shards(folder / index)
    return found[:1]


def _shards(index: Path) -> list[Path]:
    """Return the files that an index of sharded weights names. Raises BadInput if one is missing."""
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadInput(f"{index}: weight_map: it must name the file of every weight; download the file again")
    names = set(map(str, weight_map.values()))
    for name in sorted(names):
        if Path(name).name != name:
            raise BadInput(f"{index}: weight_map: {name[:80]} is not a file beside it")
        if not (index.parent / name).is_file():
            raise BadInput(f"{index.parent / name}: {index.name} names this file, and it is missing")
    for name in sorted(names):
        tensors: Mapping[str, Tensor] = read_header(index.parent / name).tensors
        missing = sorted(weight for weight, file in weight_map.items() if file == name and weight not in tensors)
        if missing:
            raise BadInput(f"{index.parent / name}: {missing[0][:80]}: {index.name} names this weight, it is missing")
    return [index.parent / name for name in sorted(names)]

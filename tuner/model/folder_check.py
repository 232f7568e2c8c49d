"""Check a pipeline's folder before anything of it is loaded: index, classes, configurations, headers of the weights.

What is not known for certain to be wrong passes: loading it will tell.
"""

from __future__ import annotations

import ast
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
DIFFUSERS_FOLDERS = ("models", "schedulers", "pipelines", "guiders", "modular_pipelines")
WITHOUT_WEIGHTS = re.compile(r"Tokenizer|Processor|FeatureExtractor|Scheduler")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
JSON_FILES = (
    "config.json", "scheduler_config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json",
    "special_tokens_map.json", "generation_config.json", "vocab.json", "added_tokens.json",
)  # fmt: skip
VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken", "*.bpe", "tokenizer.*", "tekken.json", "*vocab*")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
ROOT_FILES = ("config.json", "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json")
"""What lies in a pipeline's own folder if a component does."""

FOLDERS = {
    "transformer": "models",
    "transformer_2": "models",
    "unet": "models",
    "vae": "models",
    "scheduler": "schedulers",
}
"""Where diffusers has the classes of these components."""


def check_folder(folder: Path, variant: str | None = None, *, has_weights: bool = True) -> None:
    """Check the folder of a pipeline. Without `has_weights` only what is there is checked, and no weights.

    Raises BadInput with the file and the field of the first fault.
    """
    file = folder / "model_index.json"
    index = read_object(file)
    _check_required(file, index)
    components = list(_components(index))
    sampling_s = SAMPLING_S / max(1, len(components))
    for component, (library, class_name) in components:
        _check_class(file, component, library, class_name)
        if has_weights and not (folder / component).is_dir() and any((folder / name).is_file() for name in ROOT_FILES):
            continue  # diffusers then loads the component from the pipeline's own folder
        if has_weights or (folder / component).is_dir():
            check_component(
                folder / component, class_name, variant, time.monotonic() + sampling_s, has_weights=has_weights
            )


def check_clip(folder: Path, option: str) -> None:
    """Check the folder of a CLIP model that an option names. Raises BadInput with the option or the file."""
    config = read_object(folder / "config.json")
    kind = config.get("model_type", "clip" if "CLIPModel" in str(config.get("architectures")) else None)
    if kind != "clip":
        raise BadInput(
            f"{option} {folder}: config.json: model_type: {str(kind)[:80]}: not a CLIP model, which has clip"
        )
    shapes.check_sizes(folder / "config.json", config)
    tensors = _check_weights(folder, "CLIPModel", config, None, time.monotonic() + SAMPLING_S)
    for name in ("visual_projection.weight", "text_projection.weight"):
        if name not in tensors:
            raise BadInput(f"{option} {folder}: {name}: this weight of a CLIP model is missing")
    settings = [folder / name for name in PROCESSOR_FILES if (folder / name).is_file()]
    if not settings:
        raise BadInput(f"{option} {folder}: {PROCESSOR_FILES[0]}: the image processor's settings are missing")
    read_object(settings[0])
    check_vocabulary(folder)


def check_component(
    folder: Path, class_name: str, variant: str | None, until: float, *, has_weights: bool = True
) -> None:
    """Check the folder of one component."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: model_index.json names this component, and its folder is missing")
    contents = {name: read_object(folder / name) for name in JSON_FILES if (folder / name).is_file()}
    config_name = "scheduler_config.json" if class_name.endswith("Scheduler") else "config.json"
    if has_weights:
        _check_present(folder, class_name, config_name, contents)
    config = contents.get(config_name, {})
    shapes.check_sizes(folder / config_name, config)
    if has_weights and not WITHOUT_WEIGHTS.search(class_name):
        _check_weights(folder, class_name, config, variant, until)


def _check_present(folder: Path, class_name: str, config_name: str, contents: Mapping[str, Any]) -> None:
    """Check that the files which a class cannot be loaded without are there."""
    is_scheduler = class_name.endswith("Scheduler")
    if (is_scheduler or not WITHOUT_WEIGHTS.search(class_name)) and config_name not in contents:
        what = "scheduler" if is_scheduler else "component"
        raise BadInput(f"{folder / config_name}: the {what}'s configuration is missing")
    if not any(folder.iterdir()):
        raise BadInput(f"{folder}: the folder is empty, {class_name} needs its files")
    if "Tokenizer" in class_name:
        check_vocabulary(folder)


def check_vocabulary(folder: Path) -> None:
    """Check that a tokenizer's folder has a vocabulary with something in it."""
    found = [file for pattern in VOCABULARIES for file in folder.glob(pattern) if file.name != "tokenizer_config.json"]
    if not found:
        raise BadInput(f"{folder}: the tokenizer's vocabulary, such as tokenizer.json, is missing; download it too")
    if not any(file.stat().st_size for file in found):
        raise BadInput(f"{found[0]}: the file is empty; download it again")


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


def _check_required(file: Path, index: Mapping[str, Any]) -> None:
    """Check that the index names every component that the pipeline's class cannot be made without."""
    for component in sorted(required_components(str(index.get("_class_name")))):
        match index.get(component):
            case [str(), str()]:
                continue
            case None | [None, None]:
                state = "null" if component in index else "missing"
                raise BadInput(f"{file}: {component}: the component is {state}, and the pipeline needs it")
            case entry:
                raise BadInput(f"{file}: {component}: {json.dumps(entry)[:80]} is not a library and a class")


def _components(index: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the components of an index, with their library and class."""
    for component, entry in index.items():
        match entry:
            case [str(library), str(class_name)] if component.isidentifier():
                yield component, (library, class_name)


@cache
def required_components(pipeline_class: str) -> frozenset[str]:
    """Return the components that a pipeline of diffusers cannot be made without; empty if that is not certain."""
    source = diffusers_source.class_source("pipelines", pipeline_class)
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    tree = next((node for node in classes if node.name == pipeline_class), None)
    body: list[ast.stmt] = tree.body if tree else []
    made = next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__"), None)
    if made is None:
        return frozenset()
    required = made.args.args[1 : len(made.args.args) - len(made.args.defaults)]
    optional = [node.value for node in body if isinstance(node, ast.Assign) and _assigns(node, "_optional_components")]
    names = {item.value for value in optional for item in ast.walk(value) if isinstance(item, ast.Constant)}
    return frozenset(argument.arg for argument in required) - names


def _assigns(node: ast.Assign, name: str) -> bool:
    return any(ast.unparse(target) == name for target in node.targets)


def _check_class(file: Path, component: str, library: str, class_name: str) -> None:
    if library == "transformers":
        is_known = _is_transformers_class(class_name)
    elif library == "diffusers" or (library.isidentifier() and (_root("diffusers") / "pipelines" / library).exists()):
        parts = [part for part in DIFFUSERS_FOLDERS if class_name in diffusers_source.class_files(part)]
        is_known, expected = bool(parts), FOLDERS.get(component)
        if parts and library == "diffusers" and expected and expected not in parts:
            raise BadInput(f"{file}: {component}: {class_name[:80]} is not one of diffusers' {expected}")
    else:
        raise BadInput(
            f"{file}: {component}: {library[:80]} is neither diffusers nor transformers: no other code is run"
        )
    if not is_known:
        raise BadInput(f"{file}: {component}: the installed {library} has no class {class_name[:80]}; is it too old?")


@cache
def _is_transformers_class(name: str) -> bool:
    """Return whether transformers has a class. Its names of old tokenizers and processors are not all written out."""
    models = _root("transformers") / "models"
    if name.endswith("FeatureExtractor") or not models.is_dir():
        return True
    name = name.removesuffix("Fast")
    word = re.compile(rb"\b%s\b" % re.escape(name.encode()))
    if any(word.search(file.read_bytes()) for file in sorted((models / "auto").glob("*.py"))):
        return True
    return any(word.search(file.read_bytes()) for file in models.parent.rglob("*.py"))


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

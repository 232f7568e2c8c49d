"""The classes that a model_index.json names: whether the installed libraries have them, and whether they fit."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tuner.errors import BadInput, did_you_mean
from tuner.model import declared_choices, declared_settings, diffusers_source
from tuner.model.diffusers_source import Parameter
from tuner.model.json_file import shown
from tuner.records.model import DENOISERS

DIFFUSERS_FOLDERS = ("models", "schedulers", "pipelines", "guiders", "modular_pipelines")
CONFIGURED = ("models", "schedulers", "pipelines")
"""Where the classes are that are made from a configuration; some models are declared beside their pipeline."""

SAME_FAMILY = {"mt5": "t5"}
"""Models of transformers whose weights and configuration are those of another one."""

FOLDERS = {
    "transformer": "models",
    "transformer_2": "models",
    "unet": "models",
    "vae": "models",
    "scheduler": "schedulers",
}
"""Where diffusers has the classes of these components."""

NO_ENCODER = re.compile(r"Tokenizer|Processor|FeatureExtractor|Scheduler|^Autoenc")
NO_TOKENIZER = re.compile(r"Model(?:WithProjection)?$|ForCausalLM|ForConditional|Scheduler|^Autoenc")
OTHER_SORTS = (
    (re.compile(r"(?:text|image)_encoder(?:_\d)?"), NO_ENCODER),
    (re.compile(r"tokenizer(?:_\d)?"), NO_TOKENIZER),
    (re.compile(r"unet|vae|scheduler"), re.compile(r"Tokenizer|Processor|^CLIP|^T5|^UMT5")),
)
"""Names of components, and what no class of theirs has in its name."""

REMAPPED = "Transformer2DModel"
"""The class that diffusers replaces by another one when it loads it."""

UNLISTED = re.compile(r"FeatureExtractor$|^PreTrained")
"""Classes of transformers that are made at import or have been renamed."""

GENERATORS = ("modular_", "convert_")
"""What files of transformers begin with that others are made from, or that convert checkpoints."""

PLAIN_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def components(file: Path, index: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the components of an index that the pipeline's class loads, with their library and class.

    Raises BadInput for a component whose name is no plain word, or that is no library and class.
    """
    pipeline_class = str(index.get("_class_name"))
    known = diffusers_source.parameters("pipelines", pipeline_class)
    loaded = required_components(pipeline_class) | optional_components(pipeline_class)
    for name, entry in index.items():
        if isinstance(entry, list) and not PLAIN_NAME.fullmatch(name):
            raise BadInput(f"{file}: {shown(name)}: the name of a component is a plain word, not a path")
        if known and name not in known:
            continue  # diffusers ignores it
        match entry:
            case [str(library), str(class_name)]:
                yield name, (library, class_name)
            case [None, _] | None:
                continue
            case _ if name in loaded:
                raise BadInput(f"{file}: {name}: {json.dumps(entry)[:80]} is not a library and a class")


def check_required(file: Path, index: Mapping[str, Any]) -> None:
    """Check that the index names every component that the pipeline's class cannot be made without."""
    for component in sorted(required_components(str(index.get("_class_name")))):
        entry = index.get(component)
        if entry is None or (isinstance(entry, list) and entry[:1] == [None]):
            state = "null" if component in index else "missing"
            raise BadInput(f"{file}: {component}: the component is {state}, and the pipeline needs it")


@cache
def required_components(pipeline_class: str) -> frozenset[str]:
    """Return the components that a pipeline of diffusers cannot be made without; empty if that is not certain."""
    parameters = diffusers_source.parameters("pipelines", pipeline_class)
    needed = {name for name, parameter in parameters.items() if parameter.default is None}
    return frozenset(needed - optional_components(pipeline_class))


@cache
def optional_components(pipeline_class: str) -> frozenset[str]:
    """Return the components that a pipeline of diffusers may lack."""
    tree = diffusers_source.class_tree("pipelines", pipeline_class)
    assigned = [node for node in (tree.body if tree else []) if isinstance(node, ast.Assign)]
    values = [n.value for n in assigned if any(ast.unparse(t) == "_optional_components" for t in n.targets)]
    return frozenset(str(item.value) for value in values for item in ast.walk(value) if isinstance(item, ast.Constant))


# ---- whether a class is there ---------------------------------------------------------------------------------------


def check_class(file: Path, component: str, library: str, class_name: str) -> None:
    """Check that the installed library has a component's class, and that it is one of the component's sort."""
    for name, other in OTHER_SORTS:
        if name.fullmatch(component) and other.search(class_name):
            raise BadInput(f"{file}: {component}: {shown(class_name)} is not a class of a {component}")
    known: Sequence[str] = ()
    if library == "transformers":
        is_known = _is_transformers_class(class_name)
    elif library == "diffusers" or (library.isidentifier() and (_root("diffusers") / "pipelines" / library).exists()):
        expected = FOLDERS.get(component)
        known = tuple(diffusers_source.class_files(expected)) if expected else ()
        is_known = class_name in known or diffusers_folder(class_name, DIFFUSERS_FOLDERS) is not None
        if library == "diffusers" and is_known and expected and class_name not in known:
            raise BadInput(f"{file}: {component}: {class_name[:80]} is not one of diffusers' {expected}")
    else:
        raise BadInput(
            f"{file}: {component}: {shown(library)} is neither diffusers nor transformers: no other code is run"
        )
    if not is_known:
        known = _transformers_names() if library == "transformers" else known
        instead = did_you_mean(class_name[:80], known, "is it too old?")
        raise BadInput(f"{file}: {component}: the installed {library} has no class {shown(class_name)}; {instead}")


def diffusers_folder(class_name: str, folders: Sequence[str] = CONFIGURED) -> str | None:
    """Return the folder of diffusers that declares a class, None if none of these folders does."""
    return next((folder for folder in folders if class_name in diffusers_source.class_files(folder)), None)


@cache
def _is_transformers_class(name: str) -> bool:
    """Return whether transformers has a class. Its names of old tokenizers and processors are not all written out."""
    models = _root("transformers") / "models"
    if UNLISTED.search(name) or not models.is_dir() or transformers_folder(name):
        return True
    name = name.removesuffix("Fast")
    word = re.compile(rb"\b%s\b" % re.escape(name.encode(errors="replace")))
    folders = ((models / "auto").glob("*.py"), models.parent.glob("*.py"), models.rglob("*.py"))
    files = (file for found in folders for file in sorted(found) if not file.name.startswith(GENERATORS))
    return any(_has(file, name, word) for file in files)


def _transformers_names() -> list[str]:
    """Return names of classes that transformers' automatic classes list."""
    files = (_root("transformers") / "models" / "auto").glob("*.py")
    return sorted({name.decode() for file in files for name in re.findall(rb'"([A-Z]\w+)"', file.read_bytes())})


@cache
def transformers_folder(name: str) -> str | None:
    """Return the folder below transformers/models that declares a class, found by the class's name; None if unsure."""
    models, squeezed = _root("transformers") / "models", name.lower().replace("_", "")
    folders = [folder for folder in _model_folders() if squeezed.startswith(folder.replace("_", ""))]
    declared = re.compile(rb"^class %s\b" % re.escape(name.encode(errors="replace")), re.MULTILINE)
    for folder in sorted(folders, key=len, reverse=True):
        if any(_has(file, f"class {name}", declared) for file in sorted((models / folder).glob("*.py"))):
            return folder
    return None


@cache
def _model_folders() -> tuple[str, ...]:
    models = _root("transformers") / "models"
    return tuple(path.name for path in models.iterdir() if path.is_dir()) if models.is_dir() else ()


def _has(file: Path, text: str, pattern: re.Pattern[bytes]) -> bool:
    data = file.read_bytes()
    return text.encode(errors="replace") in data and pattern.search(data) is not None


def _root(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin else Path("/nonexistent")


def check_declared(file: Path, index: Mapping[str, Any], components: Mapping[str, tuple[str, str]]) -> None:
    """Check that a pipeline's denoisers are of the classes that its constructor declares, and encoders that project.

    Raises BadInput.
    """
    pipeline_class = str(index.get("_class_name"))
    parameters = diffusers_source.parameters("pipelines", pipeline_class)
    for name, (_, class_name) in components.items():
        annotation = parameters[name].annotation if name in parameters else None
        named = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)} if annotation else set()
        of_models = (
            diffusers_source.class_files("models").keys() if name in DENOISERS else {f"{class_name}WithProjection"}
        )
        known = named & of_models
        if known and class_name != REMAPPED and class_name not in named:
            raise BadInput(f"{file}: {name}: {class_name}: {pipeline_class} takes {' or '.join(sorted(known))} here")


# ---- whether it is the class of the component's own configuration ---------------------------------------------------


def check_agreement(index: Path, file: Path, component: str, class_name: str, config: Mapping[str, Any]) -> None:
    """Check that a component's configuration was written for the class that the index names.

    Raises BadInput with both files. Schedulers that diffusers can exchange agree, and so do models of transformers of
    one family, such as Gemma2Model and Gemma2ForCausalLM.
    """
    stated = config.get("_class_name")
    is_other = isinstance(stated, str) and stated != class_name and REMAPPED not in (stated, class_name)
    if is_other and diffusers_folder(str(stated)) and not _are_exchangeable(str(stated), class_name):
        raise BadInput(f"{file}: _class_name: {stated}, but {index}: {component} names {class_name}")
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None
    if isinstance(architecture, str) and architecture != class_name:
        families = [transformers_folder(name) for name in (architecture, class_name)]
        if all(families) and len({SAME_FAMILY.get(str(family), family) for family in families}) > 1:
            raise BadInput(f"{file}: architectures: {architecture}, but {index}: {component} names {class_name}")


def _are_exchangeable(*names: str) -> bool:
    """Return whether diffusers can load the configuration of one scheduler into the other: both go by betas."""
    return all("beta_schedule" in diffusers_source.parameters("schedulers", name) for name in names)


# ---- configurations of transformers ---------------------------------------------------------------------------------


def check_transformers_config(file: Path, class_name: str, config: Mapping[str, Any]) -> None:
    """Check the types and the activations of a configuration of transformers. Raises BadInput with the field."""
    if "model_type" not in config and "architectures" not in config:
        raise BadInput(f"{file}: model_type: it is missing: not a configuration of {class_name}; download it again")
    fields = configuration_fields(class_name, str(config.get("model_type")))
    declared_settings.check_fields(file, fields, config)
    source = _root("transformers") / "activations.py"
    for part in ("", "text_config", "vision_config"):
        settings = config.get(part) if part else config
        if isinstance(settings, dict):
            declared_choices.check_transformers_activations(file, source, settings, f"{part}." if part else "")


@cache
def configuration_fields(class_name: str, model_type: str) -> dict[str, Parameter]:
    """Return the fields that the configuration of a model of transformers declares; {} if they are not found."""
    folder = transformers_folder(class_name)
    files = sorted((_root("transformers") / "models" / folder).glob("configuration_*.py")) if folder else []
    for file in files:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and _states_type(node, model_type):
                fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
                return {ast.unparse(field.target): Parameter(field.annotation, field.value) for field in fields}
    return {}


def _states_type(tree: ast.ClassDef, model_type: str) -> bool:
    return any(isinstance(n, ast.Assign) and ast.unparse(n) == f"model_type = {model_type!r}" for n in tree.body)

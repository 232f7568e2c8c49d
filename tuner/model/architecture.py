"""The architecture of a pipeline: its components and what their classes can do, read from diffusers' source.

Importing diffusers takes seconds and imports torch. Parsing its source files takes a fraction of a second.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tuner.errors import BadInput, Unavailable
from tuner.files import require_regular_files
from tuner.model import diffusers_source
from tuner.records.codec import Values, read_json
from tuner.records.model import DENOISERS, Architecture, Denoiser

NEEDS_IMAGE = re.compile(
    r"Img2Img|Inpaint|ImageToVideo|Image2Video|VideoToVideo|I2V|I2I|ControlNet|Control|Edit|Upscale|Refiner|Adapter|Pix2Pix"
    r"|Depth2Img|Variation|Fill|Layered|Cloze"
)
BLOCK_LISTS = {
    "blocks", "transformer_blocks", "single_transformer_blocks", "temporal_transformer_blocks",
    "visual_transformer_blocks", "layers",
}  # fmt: skip
"""Where diffusers' caches look for the blocks of a denoiser (hooks/_common.py)."""

IMAGE_ARGUMENTS = {"strength", "mask_image", "control_image", "control_video", "padding_mask_crop"}


def read(index: Path) -> Architecture:
    """Read the architecture that a model_index.json names.

    Raises BadInput when the file is no index, or names no pipeline class of diffusers.
    """
    content = read_json(index)
    if not isinstance(content, dict) or "_class_name" not in content:
        raise BadInput(f"{index}: not a pipeline index with a _class_name")
    name = content["_class_name"]
    if not isinstance(name, str) or not name.isidentifier():
        raise BadInput(f"{index}: _class_name must be the name of a diffusers pipeline class")
    components = {
        component: loaded[1]
        for component, loaded in content.items()
        if isinstance(loaded, list) and len(loaded) == 2 and isinstance(loaded[1], str) and component.isidentifier()
    }
    for component in components:
        require_regular_files(index.parent / component)
    settings = {component: _settings(index.parent / component) for component in components}
    try:
        return describe(name, components, settings)
    except BadInput as error:
        raise BadInput(f"{index}: {error}") from None


def from_pipeline(pipe: Any) -> Architecture:
    """Return the architecture of a loaded pipeline."""
    parts = {name: part for name, part in pipe.components.items() if part is not None}
    configurations = {name: getattr(part, "config", None) for name, part in parts.items()}
    settings = {name: _plain_values(dict(c)) for name, c in configurations.items() if isinstance(c, Mapping)}
    return describe(type(pipe).__name__, {name: type(part).__name__ for name, part in parts.items()}, settings)


def describe(
    pipeline_class: str, components: Mapping[str, str], settings: Mapping[str, Values] | None = None
) -> Architecture:
    """Return the architecture of a pipeline class with these components, given as name to class name.

    `settings` holds the plain values of each component's configuration. Raises BadInput when diffusers has no such
    pipeline.
    """
    source = _class("pipelines", pipeline_class)
    if source is None:
        raise BadInput(f"diffusers has no pipeline class {pipeline_class}")
    arguments = _call_arguments(source)
    return Architecture(
        pipeline_class=pipeline_class,
        components=dict(components),
        denoisers=tuple(_denoiser(name, components[name]) for name in DENOISERS if name in components),
        arguments=arguments,
        settings={name: dict(values) for name, values in (settings or {}).items() if values},
        enters_cache_context="cache_context(" in source.text,
    )


def unsupported_reason(architecture: Architecture) -> str | None:
    """Return why this pipeline cannot be tuned, or None."""
    name, arguments = architecture.pipeline_class, architecture.arguments
    required = [argument for argument, default in arguments.items() if default == "required" and argument != "prompt"]
    if "prompt" not in arguments:
        return f"{name} takes no prompt, and a workload is prompts"
    if required or IMAGE_ARGUMENTS & arguments.keys() or NEEDS_IMAGE.search(name):
        needed = ", ".join(required) or "an input image"
        return f"{name} needs {needed} besides a prompt, which a workload does not have"
    if not architecture.denoisers:
        return f"{name} has no component {' or '.join(DENOISERS)} to tune"
    if "num_inference_steps" not in arguments:
        return f"{name} takes no num_inference_steps"
    return None


def _settings(folder: Path) -> Values:
    """Read the plain values of a component's configuration file; return {} if there is none."""
    files = (folder / "config.json", folder / "scheduler_config.json")
    content: Any = next((read_json(file) for file in files if file.is_file()), {})
    return _plain_values(content) if isinstance(content, dict) else {}


def _plain_values(configuration: Mapping[str, Any]) -> Values:
    """Return the values that JSON can hold. Some schedulers are configured with an infinity."""
    plain = {name: value for name, value in configuration.items() if isinstance(value, bool | int | float | str)}
    finite = {name: value for name, value in plain.items() if not isinstance(value, float) or math.isfinite(value)}
    return {name: value for name, value in finite.items() if not name.startswith("_")}


class _Source:
    """A class in diffusers' source: its syntax tree, and the text of the file that declares it."""

    def __init__(self, tree: ast.ClassDef, text: str) -> None:
        self.tree = tree
        self.text = text

    def assigned(self, name: str) -> ast.expr | None:
        """Return the value that the class body assigns to a name."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return node.value
        return None

    def bases(self) -> list[str]:
        return [base.id for base in self.tree.bases if isinstance(base, ast.Name)]


@cache
def _class(folder: str, name: str) -> _Source | None:
    """Find a class of diffusers by name, in one folder of the package."""
    _root()
    tree = diffusers_source.class_tree(folder, name)
    return _Source(tree, diffusers_source.class_source(folder, name)) if tree else None


def _root() -> Path:
    """Return the folder of diffusers. Raises Unavailable if it is not installed."""
    root = diffusers_source.root()
    if root is None:
        raise Unavailable("diffusers is not installed (pip install diffusers)")
    return root


def _call_arguments(source: _Source) -> dict[str, str | int | float | bool | None]:
    """Return the parameters of a pipeline's `__call__` with their defaults.

    A parameter without a default is "required", a default that is no plain value is None. A class without a `__call__`
    inherits that of its base.
    """
    for node in source.tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__call__":
            names = [argument.arg for argument in node.args.args][1:]
            defaults = [_plain(default) for default in node.args.defaults]
            required = ["required"] * (len(names) - len(defaults))
            return dict(zip(names, [*required, *defaults], strict=True))
    for base in source.bases():
        inherited = _class("pipelines", base)
        if inherited is not None and base != "DiffusionPipeline":
            return _call_arguments(inherited)
    return {}


def _plain(node: ast.expr) -> str | int | float | bool | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool):
        return node.value
    return None


def _denoiser(component: str, name: str) -> Denoiser:
    source = _class("models", name)
    if source is None:
        return Denoiser(component=component, class_name=name)
    blocks = source.assigned("_repeated_blocks")
    named = [e.value for e in blocks.elts if isinstance(e, ast.Constant)] if isinstance(blocks, ast.List) else []
    return Denoiser(
        component=component,
        class_name=name,
        repeated_blocks=tuple(str(block) for block in named),
        dispatches_attention="dispatch_attention_fn(" in source.text,
        is_cacheable="CacheMixin" in source.bases(),
        fuses_qkv=re.search(r"\bfused_projections\b|\bFused\w*Processor", source.text) is not None,
        registers_blocks=_registers_blocks(source),
        projects_out="proj_out" in _assigned_to_self(source),
    )


def _registers_blocks(source: _Source) -> bool:
    """Return whether diffusers' block caches support all blocks of a denoiser.

    Either all blocks return the text's hidden states beside the image's, or no block does.
    """
    known = _known_blocks()
    lists = [value for name, values in _assigned_to_self(source).items() if name in BLOCK_LISTS for value in values]
    classes = {
        call.func.id
        for value in lists
        for call in ast.walk(value)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id[0].isupper()
    }
    return bool(classes) and classes <= known.keys() and len({known[name] for name in classes}) == 1


def _assigned_to_self(source: _Source) -> dict[str, list[ast.expr]]:
    """Return the expressions that the methods of a class assign to each attribute of `self`."""
    assigned: dict[str, list[ast.expr]] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                    assigned.setdefault(target.attr, []).append(node.value)
    return assigned


@cache
def _known_blocks() -> dict[str, bool]:
    """Return the block classes that diffusers registers for its caches, and whether each returns the text's states."""
    file = _root() / "hooks" / "_helpers.py"
    known = {}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if file.is_file() else []:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "TransformerBlockRegistry.register":
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            returns_text = re.search(r"return_encoder_hidden_states_index=\d", ast.unparse(keywords["metadata"]))
            known[ast.unparse(keywords["model_class"])] = returns_text is not None
    return known

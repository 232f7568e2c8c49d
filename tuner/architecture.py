"""What kind of pipeline it is: its components and what their classes can do, read from diffusers' source.

Importing diffusers takes seconds and torch; its source files say the same in a fraction of a second.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tuner.errors import BadInput, Unavailable
from tuner.record import Architecture, Denoiser

DENOISERS = ("transformer", "transformer_2", "unet")
"""Names of the components that run once a step."""

NEEDS_A_PICTURE = re.compile(
    r"Img2Img|Inpaint|ImageToVideo|Image2Video|VideoToVideo|I2V|I2I|ControlNet|Control|Edit|Upscale|Refiner|Adapter|Pix2Pix"
    r"|Depth2Img|Variation|Fill|Layered|Cloze|Animate"
)
PICTURE_ARGUMENTS = {"strength", "mask_image", "control_image", "control_video", "padding_mask_crop"}


def read(index: Path) -> Architecture:
    """The architecture that a model_index.json names. BadInput when it is no index, or of no pipeline of diffusers."""
    try:
        written = json.loads(index.read_text())
        name = written["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"{index}: not a pipeline index with a _class_name") from None
    if not isinstance(name, str) or not name.isidentifier():
        raise BadInput(f"{index}: _class_name must be the name of a diffusers pipeline class")
    components = {
        component: loaded[1]
        for component, loaded in written.items()
        if isinstance(loaded, list) and len(loaded) == 2 and isinstance(loaded[1], str)
    }
    try:
        return describe(name, components)
    except BadInput as error:
        raise BadInput(f"{index}: {error}") from None


def describe(pipeline_class: str, components: Mapping[str, str]) -> Architecture:
    """The architecture of a pipeline class with these components (name to class).

    BadInput when diffusers has no such pipeline.
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
        enters_cache_context="cache_context(" in source.text,
        draws="frames" if "frames=" in source.text else "images",
    )


def refusal(architecture: Architecture) -> str | None:
    """Why this pipeline cannot be tuned, or None."""
    name, arguments = architecture.pipeline_class, architecture.arguments
    required = [argument for argument, default in arguments.items() if default == "required" and argument != "prompt"]
    if "prompt" not in arguments:
        return f"{name} takes no prompt, and a workload is prompts"
    if required or PICTURE_ARGUMENTS & arguments.keys() or NEEDS_A_PICTURE.search(name):
        needed = ", ".join(required) or "an input picture"
        return f"{name} needs {needed} besides a prompt, which a workload does not have"
    if not architecture.denoisers:
        return f"{name} has no component {' or '.join(DENOISERS)} to tune"
    if "num_inference_steps" not in arguments:
        return f"{name} takes no num_inference_steps"
    return None


class _Source:
    """A class in diffusers' source: its tree, and the text of the file that it stands in."""

    def __init__(self, tree: ast.ClassDef, text: str) -> None:
        self.tree = tree
        self.text = text

    def assigned(self, name: str) -> ast.expr | None:
        """The value that the class body gives a name."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return node.value
        return None

    def bases(self) -> list[str]:
        return [base.id for base in self.tree.bases if isinstance(base, ast.Name)]


@cache
def _class(folder: str, name: str) -> _Source | None:
    """A class of diffusers by name, searched for in one folder of the package."""
    spec = importlib.util.find_spec("diffusers")
    if spec is None or spec.origin is None:
        raise Unavailable("diffusers is not installed (pip install diffusers)")
    declaration = f"\nclass {name}("
    for file in sorted((Path(spec.origin).parent / folder).rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if declaration in text:
            tree = ast.parse(text)
            return next(_Source(n, text) for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    return None


def _call_arguments(source: _Source) -> dict[str, str | int | float | bool | None]:
    """The parameters of a pipeline's __call__ with their defaults: "required" without one, None where it is no plain
    value. Inherited when the class itself has none."""
    for node in source.tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__call__":
            names = [argument.arg for argument in node.args.args][1:]
            given = [_plain(default) for default in node.args.defaults]
            return dict(zip(names, [*["required"] * (len(names) - len(given)), *given], strict=True))
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
    )

"""Find and read the source of diffusers' classes without importing it, which takes seconds and imports torch."""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

_NAME = re.compile(rb"\w+")
_IMPORT = re.compile(r"^from (\.+)([\w.]*) import", re.MULTILINE)


class Parameter(NamedTuple):
    """A parameter of a constructor: what its declaration says of it."""

    annotation: ast.expr | None
    default: ast.expr | None


@cache
def root() -> Path | None:
    """Return the folder of the installed diffusers, or None."""
    spec = importlib.util.find_spec("diffusers")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


@cache
def class_files(folder: str) -> dict[str, Path]:
    """Return the file that declares each class below a folder of diffusers, the first if there are several."""
    files: dict[str, Path] = {}
    parent = root()
    for file in sorted((parent / folder).rglob("*.py")) if parent else ():
        for text in (b"\n" + file.read_bytes()).split(b"\nclass ")[1:]:  # a regular expression takes 7 times as long
            name = _NAME.match(text)
            if name is not None:
                files.setdefault(name[0].decode(), file)
    return files


@cache
def class_source(folder: str, name: str) -> str:
    """Return the text of the file below a folder of diffusers that declares a class, or "" if no file does."""
    file = class_files(folder).get(name)
    return file.read_text(encoding="utf-8") if file else ""


@cache
def class_tree(folder: str, name: str) -> ast.ClassDef | None:
    """Return the syntax tree of a class below a folder of diffusers, or None."""
    source = class_source(folder, name)
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    return next((node for node in classes if node.name == name), None)


def constructor(tree: ast.ClassDef | None) -> ast.FunctionDef | None:
    """Return the constructor that a class declares itself, or None."""
    body = tree.body if tree else []
    return next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__"), None)


@cache
def parameters(folder: str, name: str) -> dict[str, Parameter]:
    """Return the parameters of a class's own constructor by name, without `self`; {} if it declares none."""
    made = constructor(class_tree(folder, name))
    if made is None:
        return {}
    positional = made.args.args[1:]
    defaults = [*[None] * (len(positional) - len(made.args.defaults)), *made.args.defaults]
    pairs = [*zip(positional, defaults, strict=True), *zip(made.args.kwonlyargs, made.args.kw_defaults, strict=True)]
    return {argument.arg: Parameter(argument.annotation, default) for argument, default in pairs}


@cache
def imported_sources(folder: str, name: str) -> tuple[str, ...]:
    """Return the text of the file that declares a class and of what it imports from the same folder, and so on."""
    first, parent = class_files(folder).get(name), root()
    texts: dict[Path, str] = {}
    todo = [first] if first and parent else []
    while todo and parent:
        file = todo.pop()
        if file in texts or not file.is_file() or not file.is_relative_to(parent / folder):
            continue
        texts[file] = file.read_text(encoding="utf-8")
        for dots, module in _IMPORT.findall(texts[file]):
            target = file.parents[len(dots) - 1].joinpath(*filter(None, module.split(".")))
            todo += [target.with_suffix(".py"), target / "__init__.py"]
    return tuple(texts.values())

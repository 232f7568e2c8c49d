"""Find out without running it whether a user's `module:function` can be imported and called."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from tuner.errors import BadInput, did_you_mean
from tuner.files import read_text

ARGUMENTS = 2
"""A metric is called as function(images, prompts)."""


@cache
def problem(entry_point: str) -> str | None:
    """Return why an entry point cannot be imported or called, or None if nothing is known against it.

    The module's source is read, not run. Modules without a source pass, but for Python's own.
    """
    name, _, function = entry_point.partition(":")
    spec = _find(name)
    if spec is None:
        hint = spelling_hint(entry_point)
        return f"there is no module {name}, neither in {os.getcwd()} nor installed{hint and f'; {hint}'}"  # noqa: PTH109
    if spec.origin is None or not spec.origin.endswith(".py"):
        is_pythons = name.partition(".")[0] in sys.stdlib_module_names
        is_missing = is_pythons and not callable(getattr(importlib.import_module(name), function, None))
        return f"the module {name} has no function {function}" if is_missing else None
    try:
        tree = ast.parse(read_text(Path(spec.origin)))
    except (SyntaxError, ValueError, RecursionError, BadInput) as error:
        place = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        return f"{spec.origin}{place}: not Python: {getattr(error, 'msg', None) or error}"
    return _missing_import(tree, spec.origin) or _function_problem(tree, spec.origin, function)


def spelling_hint(name: str) -> str:
    """Return how to write the entry point of a file, or of `module.function`, or an empty text if it is neither."""
    file, _, function = name.partition(":")
    folder, _, module = file.removesuffix(".py").rpartition("/")
    if not function and os.path.isfile(f"{module.rpartition('.')[0]}.py"):  # noqa: PTH113
        module, _, function = module.rpartition(".")
    elif file == module and not os.path.isfile(f"{module}.py"):  # noqa: PTH113  (any string, of any length)
        return ""
    function = function if function.isidentifier() else "FUNCTION"
    start = f", and start tune in {folder}" if folder not in ("", ".") else ""
    return f"write your own metric as {module}:{function}{start}"


def source(entry_point: str) -> tuple[str, ast.Module | None]:
    """Return the file of an entry point's module, and its source if it is in Python."""
    spec = _find(entry_point.partition(":")[0])
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return "", None
    return spec.origin, ast.parse(read_text(Path(spec.origin)))


def _find(name: str) -> ModuleSpec | None:
    """Find a module, first from the current folder, without importing the packages that it is in."""
    package, *rest = name.split(".")
    try:
        spec = PathFinder.find_spec(package, [os.getcwd()]) or importlib.util.find_spec(package)  # noqa: PTH109
    except (ImportError, ValueError):
        return None
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(part, list(spec.submodule_search_locations))  # a full name needs its parent
    return spec


def _missing_import(tree: ast.Module, file: str) -> str | None:
    """Return which of the modules that a source imports in any case is not installed."""
    for node in tree.body:
        for module in _imported(node):
            missing = _missing(module, Path(file).parent)
            if missing is not None:
                return f"{file}, line {node.lineno}: it imports {missing}, which is not installed here"
    return None


def _missing(module: str, beside: Path) -> str | None:
    """Return what of a module is not there: its package, or of Python's own packages the module itself."""
    package = module.partition(".")[0]
    if PathFinder.find_spec(package, [str(beside)]) is not None:
        return None
    if _find(package) is None:
        return package
    return module if package in sys.stdlib_module_names and _find(module) is None else None


def _imported(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        yield node.module


def _function_problem(tree: ast.Module, file: str, function: str) -> str | None:
    """Return that a source has no such function, or that it cannot be called with images and prompts."""
    nodes = list(tree.body)
    names = set(_defined(_at_module_level(tree)))
    if function not in names and not {"*", "__getattr__"} & names:
        return f"{file} has no function {function}{_hint(function, nodes)}"
    for node in nodes:
        if isinstance(node, ast.AsyncFunctionDef) and node.name == function:
            return f"{file}, line {node.lineno}: {function} is asynchronous, and is called like any other function"
        if isinstance(node, ast.FunctionDef) and node.name == function and not node.decorator_list:
            return _signature_problem(node, file)
        is_its_value = isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [function]
        if is_its_value and isinstance(node.value, ast.Constant | ast.List | ast.Dict):  # type: ignore[attr-defined]
            return f"{file}, line {node.lineno}: {function} is not a function"
    return None


def _hint(function: str, nodes: Iterable[ast.stmt]) -> str:
    known = [node.name for node in nodes if isinstance(node, ast.FunctionDef)]
    hint = did_you_mean(function, known)
    return f"; {hint}" if hint else ""


def _at_module_level(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a source that are not inside a function or a class, and what functions declare as global."""
    for child in ast.iter_child_nodes(node):
        yield child
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield from (inner for inner in ast.walk(child) if isinstance(inner, ast.Global))
        else:
            yield from _at_module_level(child)


def _defined(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield every name that could be an attribute of a module: functions, classes, imports and variables."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Global):
            yield from node.names
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (re.split(r"\.", alias.asname or alias.name)[0] for alias in node.names)


def _signature_problem(node: ast.FunctionDef, file: str) -> str | None:
    arguments = node.args
    positional = len(arguments.posonlyargs) + len(arguments.args)
    required = positional - len(arguments.defaults)
    takes_more = positional >= ARGUMENTS or arguments.vararg is not None
    if required > ARGUMENTS or not takes_more or None in arguments.kw_defaults:
        return f"{file}, line {node.lineno}: it is called as {node.name}(images, prompts), and cannot be"
    return None

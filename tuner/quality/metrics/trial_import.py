"""Import a user's `module:function` in a process of its own, and say why it cannot be called.

Run as `python -m tuner.quality.metrics.trial_import MODULE:FUNCTION`: prints the reason, or nothing. The module is run
as a worker would run it. Its function is not called.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from tuner.errors import did_you_mean
from tuner.quality.metrics import entry_point, user_module


def problem(name: str) -> str | None:
    """Return why an entry point cannot be imported or called, with file and line, or None."""
    with user_module.current_folder_last():
        try:
            return _missing_name(name) or _call_problem(user_module.load(name), name.partition(":")[2])
        except BaseException as error:  # SystemExit among them, of a script that ends itself
            return _import_problem(error)


def _missing_name(name: str) -> str | None:
    """Return which name Python's own modules lack. They are quick, so they are tried before packages of seconds."""
    file, tree = entry_point.source(name)
    nodes = tree.body if tree is not None else []
    for node in (node for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0):
        for missing in _missing_names(str(node.module), [alias.name for alias in node.names]):
            return f"{file}, line {node.lineno}: {missing}"
    return None


def _missing_names(module: str, names: list[str]) -> Iterator[str]:
    if module.partition(".")[0] not in sys.stdlib_module_names:
        return
    found = importlib.import_module(module)
    for name in names:
        if (
            name != "*"
            and not hasattr(found, name)
            and not (hasattr(found, "__path__") and find_spec(f"{module}.{name}"))
        ):
            hint = did_you_mean(name, dir(found))
            yield f"the module {module} has no {name}{hint and f'; {hint}'}"


def _import_problem(error: BaseException) -> str:
    """Return where in the user's files an import failed, and why."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: not Python: {error.msg}"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    return f"{own[-1].filename}, line {own[-1].lineno}: {reason}" if own else reason


def _is_users(file: str) -> bool:
    """Return whether a file is in the current folder."""
    return os.path.realpath(file).startswith(os.path.join(os.path.realpath(os.curdir), ""))  # noqa: PTH118


def _call_problem(function: Any, name: str) -> str | None:
    """Return why something cannot be called with images and prompts, or None."""
    reason = _kind_problem(function, name)
    return reason and _place(function) + reason


def _place(function: Any) -> str:
    """Return where a function or a class is defined, as far as that is known."""
    try:
        defined = inspect.unwrap(function)
        return f"{inspect.getsourcefile(defined)}, line {inspect.getsourcelines(defined)[1]}: "
    except (TypeError, OSError, ValueError):
        return ""


def _kind_problem(function: Any, name: str) -> str | None:
    if inspect.isclass(function):
        return f"{name} is a class; name a function(images, prompts), or an instance of the class that can be called"
    if not callable(function):
        return f"{name} is not a function"
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return f"{name} is asynchronous, and is called like any other function"
    try:
        inspect.signature(function).bind([], [])
    except TypeError as error:
        return f"it is called as {name}(images, prompts), and cannot be: {error}"
    except ValueError:  # a function in C may have no signature
        return None
    return None


if __name__ == "__main__":
    name = sys.argv[1]
    answer, silence = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)  # what the module prints
    with open(answer, "w", encoding="utf-8", errors="backslashreplace", closefd=False) as file:
        file.write(problem(name) or "")
    os._exit(0)  # whatever threads the module has started

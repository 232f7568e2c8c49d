"""Import a module that the user named: from the folder that `tune` was started in first, else an installed one."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import Any


def load(entry_point: str) -> Any:
    """Return the function of an entry point `module:function`. Raises whatever its module raises."""
    module, _, name = entry_point.partition(":")
    _import_package(module.partition(".")[0])
    return getattr(importlib.import_module(module), name)


def _import_package(package: str) -> None:
    """Import a package from the current folder if it is there and not imported yet."""
    spec = None if package in sys.modules else PathFinder.find_spec(package, [os.getcwd()])  # noqa: PTH109
    if spec is None or spec.loader is None:
        return
    sys.modules[package] = module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[package])
    except BaseException:
        del sys.modules[package]
        raise


@contextmanager
def current_folder_last() -> Iterator[None]:
    """Find modules in the current folder too, but only those that are found nowhere else."""
    folder = os.getcwd()  # noqa: PTH109
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)

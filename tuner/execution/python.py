"""Start a module of this package in a new Python process that imports nothing from the current folder.

Run as a file with `python -P`, this is that process's first step, and the arguments are the module and its own. It
imports only what every interpreter has loaded already: until the import path is set right, any file could be taken
for a module of the standard library.
"""
# ruff: noqa: PTH100, PTH120

from __future__ import annotations

import os
import sys

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def command(module: str) -> tuple[str, ...]:
    """Return the command that runs a module of this package, wherever this process found the package."""
    return (sys.executable, "-P", os.path.abspath(__file__), module)


def environment() -> dict[str, str]:
    """Return this process's environment, in which no child has the current folder or its script's on its import path.

    Grandchildren inherit it. Folders that the user named in PYTHONPATH stay; an empty entry, as in `:/folder`, which
    means the current folder, does not.
    """
    return {**os.environ, "PYTHONPATH": os.pathsep.join(_named_folders()), "PYTHONSAFEPATH": "1"}


def leave_start_folder() -> None:
    """Take the current folder and the script's off the import path, unless the user named them in PYTHONPATH."""
    starts = {os.path.realpath(os.curdir), os.path.dirname(os.path.realpath(sys.argv[0]))}
    starts -= set(map(os.path.realpath, _named_folders()))
    sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) not in starts]
    _find_package_last()


def _named_folders() -> list[str]:
    return [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]


def _find_package_last() -> None:
    """Let processes that inherit this import path find the package, after everything else."""
    if os.path.dirname(PACKAGE) not in sys.path:
        sys.path.append(os.path.dirname(PACKAGE))


def _import_package() -> None:
    """Import the package from where this file lies, whatever else is on the import path."""
    from importlib import util

    spec = util.spec_from_file_location(os.path.basename(PACKAGE), f"{PACKAGE}/__init__.py")  # noqa: PTH119
    assert spec is not None
    assert spec.loader is not None
    package = sys.modules[spec.name] = util.module_from_spec(spec)
    spec.loader.exec_module(package)


def _run(module: str) -> None:
    from runpy import run_module

    _import_package()
    _find_package_last()
    run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    sys.argv.pop(0)
    _run(sys.argv[0])

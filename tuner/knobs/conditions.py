"""Conditions that several knobs have: a package of at least some version, a GPU of some compute capability."""

from __future__ import annotations

import re

from tuner.records.machine import Environment


def missing_package(environment: Environment, package: str, least: str, remedy: str = "") -> str | None:
    """Why a distribution does not serve, with the remedy (usually pip), or None."""
    wanted = f"{package}>={least}"
    remedy = remedy or f"pip install '{wanted}'"
    installed = environment.libraries.get(package)
    if not installed:
        return f"{package} is not installed ({remedy})"
    if release(installed) < release(least):
        return f"{package} {installed} is too old, it needs {wanted} ({remedy})"
    return None


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version before whatever follows them: 2.8.3.post2 is (2, 8, 3)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()


def capability(environment: Environment) -> float:
    """The GPU's compute capability, 0 without a GPU."""
    return float(environment.compute_capability or 0) if environment.device == "cuda" else 0.0


def missing_capability(environment: Environment, least: float, what: str, majors: tuple[int, ...] = ()) -> str | None:
    """Why this GPU cannot run `what`: it is older than `least`, or of no generation in `majors` (empty for any)."""
    here = capability(environment)
    if environment.device == "cpu":
        return f"{what} needs a GPU"
    if here < least:
        return f"{what} needs compute capability {least}, this GPU has {here}"
    if majors and int(here) not in majors:
        return f"{what} needs compute capability {' or '.join(f'{major}.x' for major in majors)}, this GPU has {here}"
    return None

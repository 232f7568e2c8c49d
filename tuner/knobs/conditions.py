"""Conditions that several knobs have: a package of at least some version, a GPU of some compute capability."""

from __future__ import annotations

from packaging.version import InvalidVersion, Version

from tuner.records.machine import Environment


def missing_package(environment: Environment, package: str, min_version: str, remedy: str = "") -> str | None:
    """Return why the installed version of a package does not suffice, with the remedy (default pip), or None.

    Versions compare as PEP 440 says: 3 equals 3.0, and 3.0.dev1 and 3.0b1 are older. A minimum that a pre-release
    should meet has to be one itself.
    """
    requirement = f"{package}>={min_version}"
    remedy = remedy or f"pip install '{requirement}'"
    installed = environment.libraries.get(package)
    if not installed:
        return f"{package} is not installed ({remedy})"
    try:
        is_too_old = Version(installed) < Version(min_version)
    except InvalidVersion:
        return f"{package} has the version {installed}, which cannot be compared, it needs {requirement} ({remedy})"
    return f"{package} {installed} is too old, it needs {requirement} ({remedy})" if is_too_old else None


def capability(environment: Environment) -> float:
    """Return the GPU's compute capability, 0 without a GPU."""
    return float(environment.compute_capability or 0) if environment.device == "cuda" else 0.0


def missing_capability(
    environment: Environment, min_capability: float, feature: str, majors: tuple[int, ...] = ()
) -> str | None:
    """Return why this GPU cannot run a feature, or None.

    It is older than `min_capability`, or of no generation in `majors` (empty for any).
    """
    here = capability(environment)
    if environment.device == "cpu":
        return f"{feature} needs a GPU"
    if here < min_capability:
        return f"{feature} needs compute capability {min_capability}, this GPU has {here}"
    if majors and int(here) not in majors:
        needed = " or ".join(f"{major}.x" for major in majors)
        return f"{feature} needs compute capability {needed}, this GPU has {here}"
    return None

"""The files of a package: the example of a server, what it needs, how it is built and started."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.export.facts import ratio, setting, shortfall
from tuner.export.loading import folder
from tuner.export.python import Python, codes_of, makes_videos, needed
from tuner.knobs import KNOBS
from tuner.model import pipeline
from tuner.package.compiled import LIBRARIES, NOTHING_COMPILED
from tuner.package.records import Package
from tuner.records.text import visible
from tuner.report.formatting import pluralize
from tuner.report.markdown_text import code, plain
from tuner.result.records import BestConfig

if TYPE_CHECKING:
    from jinja2 import Environment

SERVING = ("fastapi>=0.115", "uvicorn>=0.30")
BUILD = re.compile(r"(cpu|cu\d+|rocm[\d.]+|xpu)$")
"""The local part of a version that torch's own index has."""

INDEX = "https://download.pytorch.org/whl/"


def texts(best: BestConfig, package: Package, *, is_choice: bool = True) -> dict[str, str]:
    """Return the contents of the package's files by name. Raises BadInput if a setting has no plain Python."""
    facts = context(best, package, is_choice)
    rendered = {name: _environment().get_template(f"{name}.j2").render(facts) for name in TEMPLATES}
    return {"tuned.py": Python().render(best), "requirements.txt": requirements(best), **rendered}


TEMPLATES = ("server.py", "generation.py", "compiled_code.py", "Dockerfile", "README.md", ".dockerignore")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    return Environment(
        loader=PackageLoader("tuner.package"), autoescape=select_autoescape(), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def context(best: BestConfig, package: Package, is_choice: bool) -> dict[str, Any]:
    """Return what the templates show."""
    videos = makes_videos(best)
    here = best.environment
    return {
        "pipeline_class": best.model.pipeline_class,
        "libraries": LIBRARIES,
        "videos": videos,
        "what": "videos" if videos else "images",
        "kind": "MP4" if videos else "PNG",
        "python": ".".join(re.findall(r"\d+", here.python)[:2]) or "3",
        "trial": best.chosen.trial,
        "other_choice": "" if is_choice else f" (with `trial={best.chosen.trial}`: its own choice is another)",
        "settings": code(visible(" ".join(setting(name, value) for name, value in best.chosen.changed.items()))),
        "speed_up": ratio(best.speed_up),
        "shortfall": shortfall(best),
        "device_name": plain(here.device_name),
        "gpus": "--gpus all " if here.device == "cuda" else "",
        "batch": best.chosen.batch,
        "compiled": compiled_text(package),
        "nothing_compiled": NOTHING_COMPILED if package.no_compiled_code_reason == NOTHING_COMPILED else "",
        "mount": mount(best.model.source),
        "own_model": "" if pipeline.HUB_ID.fullmatch(best.model.source) else "; MODEL=FOLDER names another folder",
        "mounted": [code(visible(path)) for path in files_of(best)],
    }


def mount(source: str) -> str:
    """Return the options that give a container the model."""
    if pipeline.HUB_ID.fullmatch(source):
        return "-e HF_TOKEN -v tuned-hub:/home/server/huggingface"
    path = folder(source)
    return f"-e MODEL=/model -v {shlex.quote(path) if path.isprintable() else 'MODEL_FOLDER'}:/model:ro"


def files_of(best: BestConfig) -> list[str]:
    """Return the files and folders that settings, or the base of a checkpoint file, name."""
    values = [value for name, value in best.chosen.changed.items() if KNOBS[name].user_supplied]
    return [str(path) for path in (*values, best.model.base) if isinstance(path, str) and Path(path).is_absolute()]


def compiled_text(package: Package) -> str:
    """Say what compiled code is in the package, and when it is used."""
    if package.no_compiled_code_reason:
        return f"No compiled code is included: {plain(package.no_compiled_code_reason)}."
    size = f"{pluralize(package.compiled_files, 'file')}, {package.compiled_bytes / 1e6:,.0f} MB"
    return (
        f"`cache` has compiled code ({size}, of all builds of the study). It is used where device, versions and "
        "instruction sets are those of `cache/fingerprint.json` and nobody else can write to it. "
        "`/health` says whether. What it lacks is compiled at the start."
    )


def requirements(best: BestConfig) -> str:
    """Return the distributions to install, in the versions of the measurements, and the index of their builds."""
    found = needed(best, codes_of(best))
    builds = {version.partition("+")[2] for version in found.values() if version}
    lines = [f"--extra-index-url {INDEX}{build}" for build in sorted(builds) if BUILD.match(build)]
    lines += [_pinned(name, version) for name, version in found.items()]
    return "\n".join((*lines, *SERVING)) + "\n"


def _pinned(name: str, version: str | None) -> str:
    if not version or not re.fullmatch(r"[\w.+!-]+", version):
        return name
    public, _, build = version.partition("+")
    return f"{name}=={version}" if BUILD.match(build) else f"{name}=={public}"

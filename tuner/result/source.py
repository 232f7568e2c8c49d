"""Check the model that a best_config.json names, which may have been edited, before anything loads it."""

from __future__ import annotations

import os
from pathlib import Path

from tuner.errors import BadInput
from tuner.model import pipeline
from tuner.model.json_file import read_object
from tuner.records.model import Model
from tuner.records.text import shown
from tuner.result.records import BestConfig

MAX_PATH = 4096
"""Characters that a path on Linux has at most."""

INDEX = "model_index.json"


def check_source(config: str | os.PathLike[str], best: BestConfig, *, must_be_here: bool) -> None:
    """Raise BadInput, naming the field, unless the model of a result has a name that can be loaded, and is a pipeline.

    A folder or a file need not be on this machine if it is not loaded here.
    """
    model = best.model
    is_file = model.base is not None
    for field, source, kind in (("source", model.source, is_file), ("base", model.base, False)):
        reason = None if source is None else _name_problem(source) or _place_problem(source, kind, must_be_here)
        if reason:
            raise BadInput(f"{config}: model.{field}: {reason}")
    folder = model.base or model.source
    if Path(folder).is_absolute() and os.path.isdir(folder):  # noqa: PTH112  (Path's own methods raise on long names)
        _check_class(config, model, Path(folder))


def is_elsewhere(model: Model) -> bool:
    """Return whether a model is a folder or a file that is not on this machine."""
    return Path(model.source).is_absolute() and not os.path.exists(model.source)  # noqa: PTH110


def _name_problem(source: str) -> str | None:
    if not source.isprintable() or len(source) > MAX_PATH:
        return f"{shown(source)} is no path; write the path of the pipeline's folder, a hub id or `demo`"
    if not (Path(source).is_absolute() or source == pipeline.DEMO or pipeline.HUB_ID.fullmatch(source)):
        return f"{shown(source) or 'it'} is not an absolute path, a hub id or `demo`; write one of these"
    return None


def _place_problem(source: str, is_file: bool, must_be_here: bool) -> str | None:
    """Return what is wrong with a folder or a checkpoint file on this machine, or None."""
    if not Path(source).is_absolute():
        return None
    there, what = (os.path.isfile, "file") if is_file else (os.path.isdir, "folder")
    if must_be_here and not there(source):
        return f"no {what} {shown(source)} here; load the pipeline for tuner.apply instead"
    if not is_file and there(source) and not os.path.isfile(os.path.join(source, INDEX)):  # noqa: PTH113, PTH118
        return f"{shown(source)} has no {INDEX}, so it is no pipeline; write the folder of one"
    return None


def _check_class(config: str | os.PathLike[str], model: Model, folder: Path) -> None:
    try:
        here = read_object(folder / INDEX).get("_class_name")
    except BadInput as error:
        raise BadInput(f"{config}: model.source: {error}") from None
    if here != model.pipeline_class:
        raise BadInput(
            f"{config}: model.pipeline_class: {shown(model.pipeline_class)}, but {folder} has a {shown(here)}; write "
            "the folder of the pipeline that was tuned"
        )

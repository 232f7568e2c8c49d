"""Apply a best_config.json to a pipeline in production."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from tuner.errors import BadInput, Unavailable
from tuner.hardware.environment import detect
from tuner.knobs import KNOBS, apply_knobs, call_arguments, changed
from tuner.model import architecture, pipeline
from tuner.records.codec import Record
from tuner.result.config import BestConfig, read_config


class Call(Record):
    """How to call the pipeline: `arguments` as keywords, and `batch` prompts at a time."""

    batch: int
    arguments: dict[str, Any]


class Tuned(NamedTuple):
    """A tuned pipeline and how to call it."""

    pipe: Any
    call: Call


def apply(pipe: Any, config: str | os.PathLike[str], trial: int | None = None) -> Tuned:
    """Apply the chosen configuration of a best_config.json, or that of a `trial` on its front, to a loaded pipeline.

    Raises BadInput if the file is malformed, or made for another pipeline class or device type. Raises Unavailable if a
    setting cannot work here. Warns if the configuration was measured on another device.
    """
    best = read_config(config, trial)
    name = type(pipe).__name__
    if name != best.model.pipeline_class:
        raise BadInput(f"{config}: model.pipeline_class: tuned for {best.model.pipeline_class}, this is a {name}")
    if pipe.device.type != best.environment.device:
        there = best.environment.device
        raise BadInput(f"{config}: environment.device: tuned for {there}, move the pipeline first: pipe.to({there!r})")
    return _apply(pipe, best, config)


def load(config: str | os.PathLike[str], trial: int | None = None) -> Tuned:
    """Load the pipeline of a best_config.json and apply its chosen configuration, or that of a `trial`.

    Raises BadInput if the file is malformed or its model is not here, Unavailable if a setting cannot work here.
    """
    best = read_config(config, trial)
    source = best.model.source
    _check_source(config, "source", source, is_file=best.model.base is not None)
    if best.model.base is not None:
        _check_source(config, "base", best.model.base)
    dtype = best.chosen.values["precision.dtype"]
    return _apply(pipeline.load(best.model, detect(best.environment.device), dtype), best, config)


def _check_source(config: str | os.PathLike[str], field: str, source: str, *, is_file: bool = False) -> None:
    """Raise BadInput if a pipeline, or the checkpoint file of one, is not here, or cannot be a name of one."""
    there, what = (os.path.isfile, "file") if is_file else (os.path.isdir, "folder")
    if Path(source).is_absolute() and not there(source):  # Path's own methods raise on long names
        raise BadInput(f"{config}: model.{field}: no {what} {source} here; load the pipeline for tuner.apply instead")
    if not (Path(source).is_absolute() or source == pipeline.DEMO or pipeline.HUB_ID.fullmatch(source)):
        raise BadInput(f"{config}: model.{field}: {source} is not an absolute folder, a hub id or `demo`")


def _apply(pipe: Any, best: BestConfig, config: str | os.PathLike[str]) -> Tuned:
    values = best.chosen.values
    here = detect(best.environment.device)
    found = architecture.from_pipeline(pipe)
    for name in values:
        conflict = KNOBS[name].conflict_reason(values, found)
        if conflict:
            raise BadInput(f"{config}: chosen.values.{name}: {values[name]}: {conflict}")
    for name, value in changed(values, here).items():
        reason = KNOBS[name].unavailable_reason(value, here, found)
        if reason:
            raise Unavailable(f"{config}: {name}={value} cannot work here: {reason}")
    if here.device_name != best.environment.device_name:
        there = best.environment.device_name
        warnings.warn(f"{config} was measured on {there}, this is {here.device_name}", stacklevel=3)
    if str(pipe.dtype) != f"torch.{values['precision.dtype']}":  # even the baseline's may differ from this pipeline's
        KNOBS["precision.dtype"].apply(pipe, values)
    apply_knobs(pipe, values, here)
    arguments = pipeline.call_arguments(best.workload, call_arguments(values), best.chosen.batch)
    return Tuned(pipe, Call(batch=best.chosen.batch, arguments=arguments))

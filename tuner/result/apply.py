"""Apply a best_config.json to a pipeline in production."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tuner.errors import BadInput, TunerError, Unavailable
from tuner.hardware.environment import detect
from tuner.knobs import KNOBS, apply_knobs, call_arguments, changed
from tuner.knobs.parallel import device_count, join_ranks
from tuner.model import architecture, pipeline
from tuner.model.quiet import without_harmless_messages
from tuner.records.codec import Record, Values
from tuner.records.machine import Environment
from tuner.records.text import shown
from tuner.result.config import package_version, read_config
from tuner.result.records import BestConfig
from tuner.result.source import check_source
from tuner.space.candidates import build_values

APPLIED = "_diffusion_tuner_values"
"""The attribute of a tuned pipeline that holds its values."""

LIBRARIES = ("torch", "diffusers")
"""Other versions of these may run a configuration at another speed, or not at all."""


class Call(Record):
    """How to call the pipeline: `arguments` as keywords, and `batch` prompts at a time."""

    batch: int
    arguments: dict[str, Any]


def result_file(config: str | os.PathLike[str]) -> Path:
    """Return the best_config.json itself where the folder of its study is given."""
    path = Path(config)
    return path / "best_config.json" if path.is_dir() else path


class Tuned(NamedTuple):
    """A tuned pipeline and how to call it."""

    pipe: Any
    call: Call


def apply(pipe: Any, config: str | os.PathLike[str], trial: int | None = None) -> Tuned:
    """Apply the chosen configuration of a best_config.json, or that of a `trial` on its front, to a loaded pipeline.

    Raises BadInput if the file is malformed, or made for another pipeline class or device type. Raises Unavailable if a
    setting cannot work here. Warns if it was measured on another device, or with other versions. A setting that the
    pipeline already has is kept; the same configuration may be applied twice.
    """
    _check_order(pipe, config)
    config = result_file(config)
    best = read_config(config, trial)
    name = type(pipe).__name__
    if name != best.model.pipeline_class:
        raise BadInput(f"{config}: model.pipeline_class: tuned for {best.model.pipeline_class}, this is a {name}")
    if pipe.device.type != best.environment.device:
        there = best.environment.device
        raise BadInput(f"{config}: environment.device: tuned for {there}, move the pipeline first: pipe.to({there!r})")
    _warn_of_differences(best, config)
    with without_harmless_messages():
        return _apply(pipe, best, config)


def _check_order(pipe: Any, config: Any) -> None:
    """Raise BadInput unless a pipeline is followed by a path."""
    if isinstance(pipe, str | os.PathLike) or not isinstance(config, str | os.PathLike):
        given = f"a {type(pipe).__name__} and a {type(config).__name__}"
        raise BadInput(f"tuner.apply: the order is apply(pipe, path), a loaded pipeline and its result, not {given}")


def load(config: str | os.PathLike[str], trial: int | None = None) -> Tuned:
    """Load the pipeline of a best_config.json and apply its chosen configuration, or that of a `trial`.

    A configuration on several devices is loaded by as many processes, which torchrun starts.
    Raises BadInput if the file is malformed or its model is not here, Unavailable if a setting cannot work here.
    """
    config = result_file(config)
    best = read_config(config, trial)
    check_source(config, best, must_be_here=True)
    _warn_of_differences(best, config)
    _join_ranks(best.chosen.values, config)  # before anything takes memory of a device
    with without_harmless_messages():
        return _apply(_load(best, config), best, config)


def _load(best: BestConfig, config: str | os.PathLike[str]) -> Any:
    """Load the untouched pipeline. Raises BadInput if its files are not here and cannot be fetched."""
    try:
        return pipeline.load(best.model, detect(best.environment.device), best.chosen.values["precision.dtype"])
    except (OSError, ValueError) as error:  # of diffusers and the hub's client, for files that are not there
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BadInput(
            f"{config}: model.source: {best.model.source}: {reason}; load the pipeline for tuner.apply instead"
        ) from error


def _apply(pipe: Any, best: BestConfig, config: str | os.PathLike[str]) -> Tuned:
    values = best.chosen.values
    wanted, tuned_before = build_values(values), getattr(pipe, APPLIED, None)
    if tuned_before is None:
        _join_ranks(values, config)
        _change(pipe, values, best.environment.device, config)
        setattr(pipe, APPLIED, wanted)
    elif tuned_before != wanted:
        name = next(name for name in {**tuned_before, **wanted} if tuned_before.get(name) != wanted.get(name))
        raise BadInput(
            f"{config}: chosen.values.{name}: {_setting(wanted, name)}, but this pipeline was tuned with "
            f"{_setting(tuned_before, name)}, which cannot be taken back: load the pipeline anew"
        )
    arguments = pipeline.call_arguments(best.workload, call_arguments(values), best.chosen.batch)
    return Tuned(pipe, Call(batch=best.chosen.batch, arguments=arguments))


def _setting(values: Values, name: str) -> str:
    return shown(values[name]) if name in values else "no value"


def _join_ranks(values: Values, config: str | os.PathLike[str]) -> None:
    """Join the processes that compute an image together, if several devices do. Raises Unavailable without them."""
    if device_count(values) > 1:
        try:
            join_ranks(device_count(values))
        except Unavailable as error:
            raise Unavailable(f"{config}: {error}") from None


def _change(pipe: Any, values: Values, device: str, config: str | os.PathLike[str]) -> None:
    """Apply the values that a pipeline does not have yet. Raises BadInput or Unavailable if one cannot be applied."""
    here = msgspec.structs.replace(detect(device), devices=device_count(values))
    found = architecture.from_pipeline(pipe)
    for name in values:
        conflict = KNOBS[name].conflict_reason(values, found)
        if conflict:
            raise BadInput(f"{config}: chosen.values.{name}: {shown(values[name])}: {conflict}")
    for name, value in changed(values, here).items():
        reason = KNOBS[name].unavailable_reason(value, here, found)
        if reason and not KNOBS[name].is_set(pipe, values):
            raise Unavailable(f"{config}: {name}={shown(value)} cannot work here: {reason}")
    try:
        if str(pipe.dtype) != f"torch.{values['precision.dtype']}":  # the baseline's may differ from this pipeline's
            KNOBS["precision.dtype"].apply(pipe, values)
        apply_knobs(pipe, values, here, is_fresh=False)
    except TunerError:
        raise
    except Exception as error:  # of torch, diffusers or torchao, where something was done to the pipeline before
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise Unavailable(f"{config}: this pipeline cannot be changed: {reason}; load the pipeline anew") from error


def _warn_of_differences(best: BestConfig, config: str | os.PathLike[str]) -> None:
    """Warn in one line for other versions, and in one for another machine, than those of the measurements."""
    here, there = detect(best.environment.device), best.environment
    recorded = {"diffusion-tuner": best.tuner_version, **{name: there.libraries.get(name) for name in LIBRARIES}}
    installed = {"diffusion-tuner": package_version(), **{name: here.libraries.get(name) for name in LIBRARIES}}
    names = [name for name in recorded if recorded[name] != installed[name]]
    if names:
        pairs = ", ".join(f"{name} {shown(recorded[name])} (here {installed[name]})" for name in names)
        warnings.warn(
            f"{config} was made with {pairs}; install these versions, or tune again with `tune run`", stacklevel=3
        )
    driver = there.driver and here.driver  # a cluster's nodes may differ in it
    if (here.device_name, driver) != (there.device_name, there.driver):
        warnings.warn(
            f"{config} was measured on {_machine(there)}, this is {_machine(here)}; tune again here with `tune run`",
            stacklevel=3,
        )


def _machine(environment: Environment) -> str:
    return environment.device_name + (f" with driver {environment.driver}" if environment.driver else "")

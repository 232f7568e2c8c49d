"""Check a space file against the catalogue of knobs."""

from __future__ import annotations

import difflib

from tuner.errors import BadInput
from tuner.knobs import KNOBS
from tuner.quality.metrics import METRICS, OBJECTIVES
from tuner.quality.metrics.custom import ENTRY_POINT
from tuner.records.codec import Value
from tuner.space.candidates import format_value
from tuner.space.schema import SpaceFile

DEVICES = ("cpu", "cuda")


def check(written: SpaceFile, where: str) -> SpaceFile:
    """Check that every knob is known and that every value is one that its knob can have.

    Raises BadInput with `where` and the field.
    """
    for name, values in written.knobs.items():
        _check_knob(where, f"knobs.{name}", name)
        for device, listed in values.items() if isinstance(values, dict) else (("", values),):
            if device and device not in DEVICES:
                raise BadInput(f"{where}: knobs.{name}.{format_value(device)}: values are listed for cpu and cuda")
            _check_listed(where, f"knobs.{name}", name, listed if isinstance(listed, list) else [listed])
    for name, value in written.baseline.items():
        _check_value(where, f"baseline.{name}", name, value)
        if KNOBS[name].acts != "call":
            raise BadInput(f"{where}: baseline.{name}: only steps and batch can be set for the untouched pipeline")
    if isinstance(written.quality.tolerance, dict):
        for metric in written.quality.tolerance:
            _check_metric(where, f"quality.tolerance.{format_value(metric)}", metric)
    for recipe in written.recipes:
        for name, value in recipe.values.items():
            _check_value(where, f"recipes.{format_value(recipe.name)}", name, value)
    return written


def refuse_user_files(written: SpaceFile, where: str) -> None:
    """Refuse a space file that names weights: it must not open other files or download anything.

    Raises BadInput with the setting of the command line that names them.
    """
    used = {name for recipe in written.recipes for name, value in recipe.values.items() if value != "none"}
    for name, values in written.knobs.items():
        by_device = values.values() if isinstance(values, dict) else [values]
        used |= {name for listed in by_device if listed not in ("none", ["none"])}
    for name in sorted(used):
        if KNOBS[name].user_supplied:
            raise BadInput(f"{where}: {name}: name your own weights on the command line: --set {name}=PATH")


def _check_knob(where: str, field: str, name: str) -> None:
    if name not in KNOBS:
        near = difflib.get_close_matches(name, KNOBS, n=1)
        hint = f"did you mean {near[0]}?" if near else "`tune knobs` lists them"
        raise BadInput(f"{where}: {format_value(field)}: unknown knob; {hint}")


def _check_metric(where: str, field: str, name: str) -> None:
    if name not in METRICS and not ENTRY_POINT.fullmatch(name):
        near = difflib.get_close_matches(name, METRICS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join(OBJECTIVES)}, or your own module:function"
        raise BadInput(f"{where}: {field}: no such metric; {hint}")


def _check_listed(where: str, field: str, name: str, values: list[Value]) -> None:
    if not values:
        raise BadInput(f"{where}: {field}: no values are listed")
    for value in values:
        _check_value(where, field, name, value)
        if values.count(value) > 1:
            raise BadInput(f"{where}: {field}: {format_value(value)} is listed twice")


def _check_value(where: str, field: str, name: str, value: Value) -> None:
    _check_knob(where, field, name)
    invalid_reason = KNOBS[name].invalid_reason(value)
    if invalid_reason:
        raise BadInput(f"{where}: {field}: {format_value(value)} {invalid_reason}")

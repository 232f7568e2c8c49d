"""Check a space file against the catalogue of knobs."""

from __future__ import annotations

import re

import msgspec

from tuner.errors import BadInput, did_you_mean
from tuner.knobs import KNOBS, Knob, aliases
from tuner.quality.metrics import METRICS, OBJECTIVES
from tuner.quality.metrics.custom import ENTRY_POINT
from tuner.records.codec import Value, Values
from tuner.records.text import shown
from tuner.space.schema import Listed, SpaceFile

DEVICES = ("cpu", "cuda")
CUDA_NAMES = ("gpu", "nvidia", "cuda:0")
NO_RANGE = "for the same values on both write them alone, one or a list such as [20, 28]"


def check(written: SpaceFile, where: str) -> SpaceFile:
    """Check that every knob is known and that every value is one that its knob can have.

    Returns the file with each value as its knob calls it. Raises BadInput with `where` and the field.
    """
    written = canonical(written)
    for name, values in written.knobs.items():
        _check_knob(where, f"knobs.{name}", name, values)
        for device, listed in values.items() if isinstance(values, dict) else (("", values),):
            if device and device not in DEVICES:
                hint = "did you mean cuda?" if device.lower() in CUDA_NAMES else did_you_mean(device, DEVICES, NO_RANGE)
                raise BadInput(f"{where}: knobs.{name}.{shown(device)}: values are by device, cpu or cuda; {hint}")
            _check_listed(where, f"knobs.{name}", name, listed if isinstance(listed, list) else [listed])
    for name, value in written.baseline.items():
        _check_value(where, f"baseline.{name}", name, value)
        if KNOBS[name].acts != "call":
            raise BadInput(f"{where}: baseline.{name}: only steps and batch can be set for the untouched pipeline")
    if isinstance(written.quality.tolerance, dict):
        for metric in written.quality.tolerance:
            _check_metric(where, f"quality.tolerance.{shown(metric)}", metric)
    names = [recipe.name for recipe in written.recipes]
    for recipe in written.recipes:
        if names.count(recipe.name) > 1:
            raise BadInput(f"{where}: recipes.{shown(recipe.name)}: two recipes have this name; rename one")
        for name, value in recipe.values.items():
            _check_value(where, f"recipes.{shown(recipe.name)}.{shown(name)}", name, value)
    return written


def canonical(written: SpaceFile) -> SpaceFile:
    """Return the file with each value as its knob calls it: bfloat16 for bf16."""
    return msgspec.structs.replace(
        written,
        baseline=_canonical_values(written.baseline),
        knobs={name: _canonical_listed(name, values) for name, values in written.knobs.items()},
        recipes=tuple(
            msgspec.structs.replace(recipe, values=_canonical_values(recipe.values)) for recipe in written.recipes
        ),
    )


def _canonical_values(values: Values) -> Values:
    return {name: KNOBS[name].canonical(value) if name in KNOBS else value for name, value in values.items()}


def _canonical_listed(name: str, values: Listed | dict[str, Listed]) -> Listed | dict[str, Listed]:
    if name not in KNOBS:
        return values
    if isinstance(values, dict):
        return {device: _of_knob(KNOBS[name], listed) for device, listed in values.items()}
    return _of_knob(KNOBS[name], values)


def _of_knob(knob: Knob, listed: Listed) -> Listed:
    return [knob.canonical(value) for value in listed] if isinstance(listed, list) else knob.canonical(listed)


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


def _check_knob(where: str, field: str, name: str, listed: Listed | dict[str, Listed] = "") -> None:
    if name not in KNOBS:
        values = () if isinstance(listed, dict) else listed if isinstance(listed, list) else [listed]
        hint = aliases.knob_hint(name, *values) or did_you_mean(name, KNOBS, "`tune knobs` lists them")
        raise BadInput(f"{where}: {shown(field)}: unknown knob; {hint}")


def _check_metric(where: str, field: str, name: str) -> None:
    if name not in METRICS and not ENTRY_POINT.fullmatch(name):
        hint = did_you_mean(name, METRICS, f"use {', '.join(OBJECTIVES)}, or your own module:function")
        raise BadInput(f"{where}: {field}: no such metric; {hint}")


def _check_listed(where: str, field: str, name: str, values: list[Value]) -> None:
    if not values:
        raise BadInput(f"{where}: {field}: no values are listed")
    for value in values:
        _check_value(where, field, name, value)
        if values.count(value) > 1:
            raise BadInput(f"{where}: {field}: {shown(value)} is listed twice")


def _check_value(where: str, field: str, name: str, value: Value) -> None:
    _check_knob(where, field, name)
    invalid_reason = KNOBS[name].invalid_reason(value)
    if invalid_reason:
        several = aliases.meanings(name, value)
        if several:
            raise BadInput(f"{where}: {field}: {several}")
        hint = did_you_mean(str(value), [choice for choice in KNOBS[name].choices if isinstance(choice, str)])
        hint = _text_hint(value) or hint
        raise BadInput(f"{where}: {field}: {shown(value)} {invalid_reason}{hint and f'; {hint}'}")


def _text_hint(value: Value) -> str:
    """Return how to write the numbers that a text consists of, or an empty text."""
    numbers = re.split(r"\s*[,;]\s*|\s+", value.strip()) if isinstance(value, str) else []
    if not numbers or not all(re.fullmatch(r"[-+]?(0|[1-9]\d*)(\.\d+)?", number) for number in numbers):
        return ""
    return "it is text: write it without quotes" if len(numbers) == 1 else f"write a list: [{', '.join(numbers)}]"

"""Find the values of a space file that work for this pipeline on this machine."""

from __future__ import annotations

from collections.abc import Mapping

from tuner.knobs import KNOBS
from tuner.records.codec import Value, Values
from tuner.records.machine import Environment
from tuner.records.model import Architecture
from tuner.records.text import shown
from tuner.space.activity import inactive_reasons
from tuner.space.candidates import Recipe
from tuner.space.schema import Listed, SpaceFile


def _on(device: str, name: str, values: Listed | dict[str, Listed]) -> list[Value]:
    """Return the values that a knob lists for a device."""
    listed = values.get(device, []) if isinstance(values, dict) else values
    return [coerce(name, value) for value in (listed if isinstance(listed, list) else [listed])]


def coerce(name: str, value: Value) -> Value:
    """Convert a whole number to a float if the knob's values are floats, so that 1 and 1.0 are one value."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_whole and isinstance(KNOBS[name].choices[0], float) else value


def baseline_values(call: Values, architecture: Architecture, environment: Environment) -> Values:
    """Return the untouched pipeline's values: the file's steps and batch, else the pipeline's own number of steps."""
    default = architecture.arguments.get("num_inference_steps")
    steps = {"steps": default} if isinstance(default, int) else {}
    return (
        {name: knob.baseline(environment) for name, knob in KNOBS.items()}
        | steps
        | {name: coerce(name, value) for name, value in call.items()}
    )


def usable_values(
    written: SpaceFile, architecture: Architecture, environment: Environment, baseline: Values
) -> tuple[dict[str, tuple[Value, ...]], dict[str, str]]:
    """Return the values to search here, and those left out with the reason."""
    knobs: dict[str, tuple[Value, ...]] = {}
    left_out: dict[str, str] = {}
    for name, values in written.knobs.items():
        usable = []
        for value in _on(environment.device, name, values):
            reason = KNOBS[name].unavailable_reason(value, environment, architecture)
            if name == "steps" and int(value) > int(baseline["steps"]):
                reason = f"the untouched pipeline takes {baseline['steps']}; set baseline.steps if yours takes more"
            if reason:
                left_out[f"{name}={shown(value)}"] = reason
            else:
                usable.append(value)
        if usable:
            knobs[name] = tuple(usable)
    return knobs, left_out


def active_values(
    written: SpaceFile, usable: Mapping[str, tuple[Value, ...]], environment: Environment, baseline: Values
) -> tuple[dict[str, tuple[Value, ...]], dict[str, str]]:
    """Return the values of knobs that some candidate makes act, and those left out with the reason."""
    listed = {name: _on(environment.device, name, values) for name, values in written.knobs.items()}
    tried = {
        name: (*usable.get(name, (baseline[name],)), *(() if name in usable else _of_recipes(written, name)))
        for name in KNOBS
    }
    reasons = inactive_reasons(listed, tried)
    left_out = {
        f"{name}={shown(value)}": reasons[name]
        for name, values in usable.items()
        if name in reasons
        for value in values
    }
    return {name: values for name, values in usable.items() if name not in reasons}, left_out


def _of_recipes(written: SpaceFile, name: str) -> list[Value]:
    """Return the values that recipes have of a knob; of one that the space does not list they may have any."""
    return [recipe.values[name] for recipe in written.recipes if name in recipe.values]


def unavailable_reason(
    recipe: Recipe, knobs: Mapping[str, tuple[Value, ...]], architecture: Architecture,
    environment: Environment,
) -> str | None:  # fmt: skip
    """Return why a recipe cannot be tried here, or None. A recipe may only use values that the space lists."""
    for name, value in recipe.values.items():
        reason = KNOBS[name].unavailable_reason(value, environment, architecture)
        if reason:
            return reason
        if name in knobs and value not in knobs[name]:
            return f"the space lists {name} only as {', '.join(map(shown, knobs[name]))}"
    return None

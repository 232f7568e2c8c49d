"""Read a space file (search_spaces/*.yaml) as the SearchSpace of a pipeline on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tuner.errors import BadInput, did_you_mean
from tuner.files import absent
from tuner.quality.metrics import get_objective
from tuner.records.codec import Value
from tuner.records.gate import GatePolicy
from tuner.records.machine import Environment
from tuner.records.model import Architecture
from tuner.records.text import shown
from tuner.space.candidates import Recipe, SearchSpace, recipe_title
from tuner.space.combinations import check_combination
from tuner.space.schema import SpaceFile
from tuner.space.settings import apply_settings, check_available, origins
from tuner.space.space_file import parse, read_extended, shipped_folder
from tuner.space.usable import active_values, baseline_values, coerce, unavailable_reason, usable_values
from tuner.space.workload import make_workload

CLIP_SCORE = "clip_score"


def find(name: str | None, architecture: Architecture, is_demo: bool) -> Path:
    """Find the space file of a name or path. Without one, use the shipped space for the pipeline's class, or `any`.

    Raises BadInput if there is no such file.
    """
    shipped = {path.stem: path for path in sorted(shipped_folder().glob("*.yaml"))}
    if name is not None:
        path = shipped.get(name, Path(name))
        if not os.path.isfile(path):  # noqa: PTH113  (Path.is_file raises when a name is too long)
            hint = did_you_mean(Path(name).stem, shipped, f"the shipped ones are {', '.join(shipped)}")
            raise BadInput(f"--space {shown(name)}: {absent(path, 'space file')}; {hint}")
        return path
    if is_demo:
        return shipped["demo"]
    fitting = (p for stem, p in shipped.items() if stem != "demo" and architecture.pipeline_class in parse(p).pipelines)
    return next(fitting, shipped["any"])


def load(
    path: Path, architecture: Architecture, environment: Environment, settings: Sequence[str] = (),
    metric: str = CLIP_SCORE,
) -> SearchSpace:  # fmt: skip
    """Read a space file for a pipeline on this machine.

    `settings` are NAME=VALUE, each overrides a field of the file. `metric` is the objective. Raises BadInput with the
    file or setting, and the field.
    """
    written = read_extended(path)
    name = architecture.pipeline_class
    if "any" not in written.pipelines and name not in written.pipelines:
        listed = ", ".join(written.pipelines)
        raise BadInput(f"{path}: pipelines: this space is for {listed}, not for {name}; list {name} or any")
    written = apply_settings(written, settings)
    baseline = baseline_values(written.baseline, architecture, environment)
    knobs, left_out = usable_values(written, architecture, environment, baseline)
    knobs, inactive = active_values(written, knobs, environment, baseline)
    left_out |= inactive
    check_available(settings, left_out)
    pinned = {name: values[0] for name, values in knobs.items() if values != (baseline[name],) and len(values) == 1}
    recipes, unusable = _recipes(written, knobs, pinned, architecture, environment)
    space = SearchSpace(
        name=path.stem,
        architecture=architecture,
        workload=make_workload(path, written.workload, architecture, origins(settings)),
        tolerance=_tolerance(path, written, metric),
        gate=GatePolicy(
            count_per_step=written.gate.count_per_step or {},
            max_idle_ms_per_step=written.gate.max_idle_ms_per_step or 0.0,
        ),
        baseline=baseline,
        knobs=knobs,
        recipes=recipes,
        left_out=left_out | unusable,
    )
    check_combination(space, settings)
    return space


def _recipes(
    written: SpaceFile, knobs: Mapping[str, tuple[Value, ...]], pinned: Mapping[str, Value],
    architecture: Architecture, environment: Environment,
) -> tuple[tuple[Recipe, ...], dict[str, str]]:  # fmt: skip
    """Return the recipes that can be tried here over the pinned values, and those left out with the reason."""
    recipes: list[Recipe] = []
    left_out: dict[str, str] = {}
    for recipe in written.recipes:
        reason = unavailable_reason(recipe, knobs, architecture, environment)
        if reason:
            left_out[recipe_title(recipe.name)] = reason
        else:
            values = {name: coerce(name, value) for name, value in recipe.values.items()}
            recipes.append(msgspec.structs.replace(recipe, values={**pinned, **values}))
    return tuple(recipes), left_out


def _tolerance(path: Path, written: SpaceFile, metric: str) -> float:
    """Return how far below the baseline a score still counts as good: as set or written, or the metric's default."""
    tolerance = written.quality.tolerance_of(metric)
    if tolerance is None:
        tolerance = get_objective(metric).tolerance
    if tolerance is None:
        remedy = "write `quality: {tolerance: POINTS}` in a space file, or give --set quality.tolerance=POINTS"
        raise BadInput(f"{path}: quality.tolerance is missing, and {metric} has no default: {remedy}")
    return tolerance

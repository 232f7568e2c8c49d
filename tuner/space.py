"""search_spaces/*.yaml -> Space: which candidates exist, which are valid, and why the others are not."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from tuner.errors import BadInput
from tuner.knobs import KNOBS
from tuner.record import Architecture, Environment, Record, Value, Values, Workload, fingerprint, read

S = TypeVar("S")

MOST_PIXELS = 16384


class WorkloadFields(Record):
    """The workload as a space file gives it; `prompts` is a list, or the name of a file in the space file's folder,
    which may bring seeds along."""

    prompts: str | tuple[str, ...]
    height: int
    width: int
    seeds: tuple[int, ...] | None = None
    guidance_scale: float | None = None
    max_sequence_length: int | None = None


class QualityFields(Record):
    """How much worse than the baseline's the mean score may be (in points of the metric) and still be as good."""

    tolerance: float


class Recipe(Record):
    """A configuration that an expert would try first, and where it comes from."""

    name: str
    source: str
    values: Values


class SpaceFile(Record):
    """A space file, as written."""

    pipelines: tuple[str, ...]
    workload: WorkloadFields
    quality: QualityFields
    knobs: dict[str, list[Value] | dict[str, list[Value]]]
    baseline: Values = msgspec.field(default_factory=dict)
    recipes: tuple[Recipe, ...] = ()


class Space(Record):
    """The candidates of one study.

    `knobs` holds the values to search here, `baseline` the untouched pipeline's value of every knob, and `left_out`
    what the file lists but this machine or pipeline cannot do, with the reason.
    """

    name: str
    workload: Workload
    tolerance: float
    baseline: Values
    knobs: dict[str, tuple[Value, ...]]
    recipes: tuple[Recipe, ...]
    left_out: dict[str, str]

    def choose(self, suggest: Callable[[str, tuple[Value, ...]], Value]) -> Values:
        """One candidate: a value for every knob that is active beside those before it, `suggest`ed where it is open."""
        values: Values = {}
        for name, knob in KNOBS.items():
            if knob.active(values):
                choices = self.knobs.get(name, (self.baseline[name],))
                values[name] = suggest(name, choices) if len(choices) > 1 else choices[0]
        return values

    def candidate(self, different: Mapping[str, Value]) -> Values:
        """The candidate that differs from the baseline in these values, less those that mean nothing beside others."""
        values: Values = {}
        for name, knob in KNOBS.items():
            if knob.active(values):
                values[name] = different.get(name, self.baseline[name])
        return values

    def refusal(self, values: Mapping[str, Value]) -> str | None:
        """Why this candidate is not worth a process, or None. It names the knob."""
        for name in values:
            reason = KNOBS[name].conflict(values)
            if reason:
                return f"{name}={show(values[name])}: {reason}"
        return None

    def changed(self, values: Mapping[str, Value]) -> Values:
        """What of a candidate differs from the baseline."""
        return {name: value for name, value in values.items() if self.baseline.get(name) != value}

    def row(self, values: Mapping[str, Value]) -> list[Values]:
        """The candidates that one build of `values` can measure: the candidate itself, then its other step counts."""
        steps = [step for step in self.knobs.get("steps", ()) if step != values["steps"]]
        return [dict(values)] + [{**values, "steps": step} for step in steps]


def show(value: Value) -> str:
    """A value in one line, as YAML writes it."""
    return str(value).lower() if isinstance(value, bool) else " ".join(str(value).split())[:80]


def build_values(values: Mapping[str, Value]) -> Values:
    return {name: value for name, value in values.items() if KNOBS[name].acts == "build"}


def build_key(values: Mapping[str, Value]) -> str:
    """Equal for candidates that one process can measure."""
    return fingerprint(build_values(values))


def image_key(values: Mapping[str, Value]) -> str:
    """Equal for candidates whose pictures differ by rounding at most.

    A cache decides for a whole batch at once, so with one the batch counts too.
    """
    batch = {"batch": values["batch"]} if values.get("cache.kind", "none") != "none" else {}
    return fingerprint(batch | {name: value for name, value in values.items() if KNOBS[name].image})


def candidate_key(values: Mapping[str, Value]) -> str:
    return fingerprint(values)


def space_folder() -> Path:
    """Where the spaces are that come with the package: in the wheel, or beside it in a checkout."""
    packaged = Path(str(resources.files("tuner"))) / "search_spaces"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parent.parent / "search_spaces"


def find(name: str | None, architecture: Architecture, is_demo: bool) -> Path:
    """The space file for a name or path; without one, the shipped space that names the pipeline's class.

    Raises BadInput when there is none.
    """
    folder = space_folder()
    shipped = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name is not None:
        path = shipped.get(name, Path(name))
        if not os.path.isfile(path):  # noqa: PTH113  (Path.is_file raises when a name is too long)
            raise BadInput(f"{name}: no such space file; the shipped ones are {', '.join(shipped)}")
        return path
    if is_demo:
        return shipped["demo"]
    for stem, path in shipped.items():
        if stem != "demo" and architecture.pipeline_class in _parse(path).pipelines:
            return path
    raise BadInput(f"no shipped space is for {architecture.pipeline_class}; write one and give it with --space FILE")


def load(path: Path, architecture: Architecture, environment: Environment) -> Space:
    """Read a space file for a pipeline on this machine.

    Raises BadInput naming file and field for anything that is not right in it.
    """
    written = _parse(path)
    name = architecture.pipeline_class
    if "any" not in written.pipelines and name not in written.pipelines:
        raise BadInput(f"{path}: pipelines: this space is for {', '.join(written.pipelines)}, not for {name}")
    knobs: dict[str, tuple[Value, ...]] = {}
    left_out: dict[str, str] = {}
    for name, values in written.knobs.items():
        _check_knob(path, f"knobs.{name}", name)
        by_device = values if isinstance(values, dict) else {"cpu": values, "cuda": values}
        for device, listed in by_device.items():
            _check_listed(path, f"knobs.{name}", device, name, listed)
        usable = []
        for value in by_device.get(environment.device, []):
            reason = KNOBS[name].unavailable(value, environment, architecture)
            if reason:
                left_out[f"{name}={show(value)}"] = reason
            else:
                usable.append(value)
        if usable:
            knobs[name] = tuple(usable)
    return Space(
        name=path.stem,
        workload=_workload(path, written.workload),
        tolerance=_tolerance(path, written.quality),
        baseline=_baseline(path, written.baseline, environment),
        knobs=knobs,
        recipes=_recipes(path, written.recipes, environment, architecture, left_out),
        left_out=left_out,
    )


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which would silently keep the last of two equal keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"the key {key.value} stands there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parse(path: Path) -> SpaceFile:
    try:
        written = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  (a SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise BadInput(f"{path}{where}: not YAML: {show(str(problem))}") from None
    return _convert(written, SpaceFile, path)


def _convert(data: Any, kind: type[S], path: Path) -> S:
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise BadInput(f"{path}: {error}") from None
    except RecursionError:
        raise BadInput(f"{path}: nested too deeply") from None


def _tolerance(path: Path, fields: QualityFields) -> float:
    if not 0 <= fields.tolerance < math.inf:
        raise BadInput(f"{path}: quality.tolerance: {fields.tolerance} must be a number of points, 0 or more")
    return fields.tolerance


def _baseline(path: Path, overrides: Values, environment: Environment) -> Values:
    for name, value in overrides.items():
        _check_value(path, f"baseline.{name}", name, value)
        if KNOBS[name].acts != "call":
            raise BadInput(f"{path}: baseline.{name}: the baseline is the untouched pipeline, only its call can be set")
    return {**{name: knob.baseline(environment) for name, knob in KNOBS.items()}, **overrides}


def _recipes(
    path: Path,
    recipes: tuple[Recipe, ...],
    environment: Environment,
    architecture: Architecture,
    left_out: dict[str, str],
) -> tuple[Recipe, ...]:
    usable = []
    for recipe in recipes:
        field = f"recipes.{show(recipe.name)}"
        reasons = []
        for name, value in recipe.values.items():
            _check_value(path, field, name, value)
            reasons.append(KNOBS[name].unavailable(value, environment, architecture))
        reason = next(filter(None, reasons), None)
        if reason:
            left_out[f"recipe {recipe.name}"] = reason
        else:
            usable.append(recipe)
    return tuple(usable)


def _check_knob(path: Path, field: str, name: str) -> None:
    if name not in KNOBS:
        raise BadInput(f"{path}: {show(field)}: unknown knob; the knobs are {', '.join(KNOBS)}")


def _check_listed(path: Path, field: str, device: str, name: str, values: list[Value]) -> None:
    if device not in ("cpu", "cuda"):
        raise BadInput(f"{path}: {field}.{show(device)}: values are listed for cpu and cuda")
    if not values:
        raise BadInput(f"{path}: {field}: no values are listed")
    for value in values:
        _check_value(path, field, name, value)
        if values.count(value) > 1:
            raise BadInput(f"{path}: {field}: {show(value)} is listed twice")


def _check_value(path: Path, field: str, name: str, value: Value) -> None:
    _check_knob(path, field, name)
    wrong = KNOBS[name].wrong(value)
    if wrong:
        raise BadInput(f"{path}: {field}: {show(value)} {wrong}")


class PromptFile(Record):
    """Prompts with a seed each."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...] | None = None


def _prompt_file(path: Path, name: str) -> Path:
    """The demo's prompts, or a file in the space file's own folder: a space from elsewhere reads nothing outside it."""
    from tuner.demo import PROMPTS_FILE

    if name == "demo":
        return PROMPTS_FILE
    folder = path.resolve().parent
    file = Path(os.path.realpath(folder / name))
    if not file.is_relative_to(folder) or not os.path.isfile(file):  # noqa: PTH113
        raise BadInput(f"{path}: workload.prompts: {show(name)} is not a file in the folder of the space")
    return file


def _workload(path: Path, fields: WorkloadFields) -> Workload:
    prompts, seeds = fields.prompts, fields.seeds
    if isinstance(prompts, str):
        listed = read(_prompt_file(path, prompts), PromptFile)
        prompts, seeds = listed.prompts, listed.seeds if seeds is None else seeds
    seeds = tuple(range(len(prompts))) if seeds is None else seeds
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise BadInput(f"{path}: workload.prompts: at least one prompt, and none of them empty")
    if len(seeds) != len(prompts):
        raise BadInput(f"{path}: workload.seeds: {len(seeds)} seeds for {len(prompts)} prompts, they pair up")
    if not all(0 <= seed < 2**63 for seed in seeds):
        raise BadInput(f"{path}: workload.seeds: a seed is a whole number from 0 to 2**63 - 1")
    for side in ("height", "width"):
        if not 8 <= getattr(fields, side) <= MOST_PIXELS:
            raise BadInput(f"{path}: workload.{side}: {getattr(fields, side)} is in pixels, from 8 to {MOST_PIXELS}")
    if fields.guidance_scale is not None and not math.isfinite(fields.guidance_scale):
        raise BadInput(f"{path}: workload.guidance_scale: {fields.guidance_scale} is not a number")
    if fields.max_sequence_length is not None and fields.max_sequence_length < 1:
        raise BadInput(f"{path}: workload.max_sequence_length: {fields.max_sequence_length} is in tokens, at least 1")
    return Workload(
        prompts=prompts, seeds=seeds, height=fields.height, width=fields.width,
        guidance_scale=fields.guidance_scale, max_sequence_length=fields.max_sequence_length,
    )  # fmt: skip

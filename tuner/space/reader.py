"""search_spaces/*.yaml -> SearchSpace: reading a space file strictly, with the file it extends and what --set says."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from tuner.errors import BadInput
from tuner.knobs import KNOBS
from tuner.quality.metrics import get_objective
from tuner.records.codec import Record, Value, read
from tuner.records.gate import GatePolicy
from tuner.records.machine import Environment
from tuner.records.model import Architecture, Workload
from tuner.space.candidates import Recipe, SearchSpace, format_value
from tuner.space.schema import PromptFile, SpaceFile, WorkloadFields
from tuner.space.usable import baseline_values, coerce, unavailable_reason, usable_values

S = TypeVar("S", bound=Record)

MAX_PIXELS = 16384
CLIP_SCORE = "clip_score"
DEVICES = ("cpu", "cuda")
FIELDS = ("height", "width", "num_frames", "guidance_scale", "max_sequence_length")
FIXED_ARGUMENTS = {
    "prompt", "generator", "num_inference_steps", "output_type", "return_dict", "latents", "num_images_per_prompt",
    "num_videos_per_prompt", *FIELDS,
}  # fmt: skip
"""Of a pipeline's call: what the tuner itself decides, and what the workload has a field for."""


def shipped_folder() -> Path:
    """Where the spaces are that come with the package: in the wheel, or beside it in a checkout."""
    packaged = Path(str(resources.files("tuner"))) / "search_spaces"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "search_spaces"


def find(name: str | None, architecture: Architecture, is_demo: bool) -> Path:
    """The space file for a name or path; without one, the shipped space that names the pipeline's class, or `any`.

    Raises BadInput when there is no file of that name.
    """
    shipped = {path.stem: path for path in sorted(shipped_folder().glob("*.yaml"))}
    if name is not None:
        path = shipped.get(name, Path(name))
        if not os.path.isfile(path):  # noqa: PTH113  (Path.is_file raises when a name is too long)
            raise BadInput(f"{name}: no such space file; the shipped ones are {', '.join(shipped)}")
        return path
    if is_demo:
        return shipped["demo"]
    fitting = (p for stem, p in shipped.items() if stem != "demo" and architecture.pipeline_class in parse(p).pipelines)
    return next(fitting, shipped["any"])


def load(
    path: Path, architecture: Architecture, environment: Environment, settings: Sequence[str] = (),
    metric: str = CLIP_SCORE,
) -> SearchSpace:  # fmt: skip
    """Read a space file for a pipeline on this machine; `settings` are NAME=VALUE, each overriding a field of it.
    `metric` is the search's objective: the file's tolerance is in points of CLIP score, another metric has its own.

    Raises BadInput naming file (or setting) and field for anything that is not right in it.
    """
    written = _with_extended(path)
    name = architecture.pipeline_class
    if "any" not in written.pipelines and name not in written.pipelines:
        raise BadInput(f"{path}: pipelines: this space is for {', '.join(written.pipelines)}, not for {name}")
    for setting in sorted(settings, key=_comes_late):
        written = _merged(written, _setting(setting))
    baseline = baseline_values(written.baseline, architecture, environment)
    knobs, left_out = usable_values(written, architecture, environment, baseline)
    _check_settings(settings, left_out)
    pinned = {name: values[0] for name, values in knobs.items() if values != (baseline[name],) and len(values) == 1}
    recipes: list[Recipe] = []
    for recipe in written.recipes:
        reason = unavailable_reason(recipe, knobs, architecture, environment)
        if reason:
            left_out[f"recipe {recipe.name}"] = reason
        else:
            given = {name: coerce(name, value) for name, value in recipe.values.items()}
            recipes.append(msgspec.structs.replace(recipe, values=pinned | given))
    return SearchSpace(
        name=path.stem,
        architecture=architecture,
        workload=_workload(path, written.workload, architecture, settings),
        tolerance=_tolerance(path, written, settings, metric),
        gate=GatePolicy(
            count_per_step=written.gate.count_per_step or {},
            max_idle_ms_per_step=written.gate.max_idle_ms_per_step or 0.0,
        ),
        baseline=baseline,
        knobs=knobs,
        recipes=tuple(recipes),
        left_out=left_out,
    )


def _tolerance(path: Path, written: SpaceFile, settings: Sequence[str], metric: str) -> float:
    """How much worse is still as good, in points of the metric that is the objective."""
    is_set = any(setting.startswith("quality.tolerance=") for setting in settings)
    found = written.quality.tolerance if metric == CLIP_SCORE or is_set else get_objective(metric).tolerance
    if found is None:
        hint = "" if metric == CLIP_SCORE else f": --set quality.tolerance=POINTS, as {metric} counts"
        raise BadInput(f"{path}: quality.tolerance is missing, in points of the metric{hint}")
    return found


# ---- reading --------------------------------------------------------------------------------------------------------


def parse(path: Path) -> SpaceFile:
    """One file by itself: every field of the right type, every knob known and every value one that it can have."""
    written = _checked(_convert(_yaml(path), str(path)), str(path))
    _refuse_given(path, written)
    if isinstance(written.workload.prompts, str):
        listed = _prompts(_inside(path, "workload.prompts", written.workload.prompts))
        seeds = written.workload.seeds if written.workload.seeds is not None else listed.seeds
        workload = msgspec.structs.replace(written.workload, prompts=listed.prompts, seeds=seeds)
        _check_workload(str(path), workload)
        written = msgspec.structs.replace(written, workload=workload)
    if not written.extends and not (written.pipelines and written.knobs):
        missing = "knobs" if written.pipelines else "pipelines"
        raise BadInput(f"{path}: {missing}: nothing is listed, and the file extends no other")
    return written


def _refuse_given(path: Path, written: SpaceFile) -> None:
    """A file from elsewhere opens no other file and fetches nothing: weights are named on the command line."""
    used = {name for recipe in written.recipes for name, value in recipe.values.items() if value != "none"}
    for name, values in written.knobs.items():
        by_device = values.values() if isinstance(values, dict) else [values]
        used |= {name for listed in by_device if listed not in ("none", ["none"])}
    for name in sorted(used):
        if KNOBS[name].user_supplied:
            raise BadInput(f"{path}: {name}: weights of your own are named on the command line: --set {name}=PATH")


def _with_extended(path: Path, seen: tuple[Path, ...] = ()) -> SpaceFile:
    """A file merged over the one that it extends, and so on."""
    written = parse(path)
    if written.extends is None:
        return written
    parent = shipped_folder() / f"{written.extends}.yaml"
    is_file = os.path.isfile(parent)  # noqa: PTH113  (Path.is_file raises when a name is too long)
    if not is_file or not parent.resolve().is_relative_to(shipped_folder().resolve()):
        parent = _inside(path, "extends", written.extends)
    if parent.resolve() in (path.resolve(), *seen):
        raise BadInput(f"{path}: extends: {format_value(written.extends)} extends this file in turn")
    return _merged(_with_extended(parent, (*seen, path.resolve())), written)


def _merged(parent: SpaceFile, child: SpaceFile) -> SpaceFile:
    """The child's fields over the parent's; the recipes of both, the child's in place of those with their names."""
    names = {recipe.name for recipe in child.recipes}
    return SpaceFile(
        pipelines=child.pipelines or parent.pipelines,
        workload=_over(parent.workload, child.workload),
        quality=_over(parent.quality, child.quality),
        gate=_over(parent.gate, child.gate),
        baseline=parent.baseline | child.baseline,
        knobs=parent.knobs | child.knobs,
        recipes=tuple(recipe for recipe in parent.recipes if recipe.name not in names) + child.recipes,
    )


def _over(parent: S, child: S) -> S:
    """One group of fields over another; other prompts do not keep the seeds of those before."""
    given = {name: value for name, value in msgspec.structs.asdict(child).items() if value is not None}
    if "prompts" in given:
        given.setdefault("seeds", None)
    return msgspec.structs.replace(parent, **given)


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


def _yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  (a SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise BadInput(f"{path}{where}: not YAML: {format_value(str(problem))}") from None


def _convert(data: Any, where: str) -> SpaceFile:
    try:
        return msgspec.convert(data, SpaceFile)
    except msgspec.ValidationError as error:
        raise BadInput(f"{where}: {error}") from None
    except RecursionError:
        raise BadInput(f"{where}: nested too deeply") from None


def _inside(path: Path, field: str, name: str) -> Path:
    """A file in the space file's own folder: a space from elsewhere reads nothing outside it."""
    from tuner.demo import PROMPTS_FILE

    if (field, name) == ("workload.prompts", "demo"):
        return PROMPTS_FILE
    parent = path.resolve().parent
    file = Path(os.path.realpath(parent / name.replace("\0", "?")))  # no path has a NUL
    if not file.is_relative_to(parent) or not os.path.isfile(file):  # noqa: PTH113
        what = "no shipped space and not" if field == "extends" else "not"
        raise BadInput(f"{path}: {field}: {format_value(name)} is {what} a file in the folder of the space")
    return file


def _prompts(file: Path) -> PromptFile:
    """A JSON file with prompts and seeds, or a text file with a prompt a line."""
    if file.suffix != ".txt":
        return read(file, PromptFile)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file}: cannot be read: {error}") from None
    return PromptFile(prompts=tuple(line.strip() for line in lines if line.strip()))


# ---- settings from the command line ---------------------------------------------------------------------------------


def _comes_late(setting: str) -> bool:
    """Prompts bring seeds of their own, over which those that a user sets win in either order."""
    return setting.startswith("workload.seeds=")


def _setting(text: str) -> SpaceFile:
    """What one NAME=VALUE says: of a knob, or of a field of workload, baseline or quality."""
    where = f"--set {format_value(text)}"
    name, equals, written = text.partition("=")
    if not equals:
        raise BadInput(f"{where}: write it as KNOB=VALUE or workload.FIELD=VALUE")
    try:
        value = yaml.load(written, _Loader)  # noqa: S506  (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise BadInput(f"{where}: the value is not YAML") from None
    if value is None:
        raise BadInput(f"{where}: give a value")
    group, _, field = name.partition(".")
    if name == "workload.prompts" and isinstance(value, str):
        listed = _prompts(Path(value.replace("\0", "?")))
        workload = WorkloadFields(prompts=listed.prompts, seeds=listed.seeds)
        _check_workload(where, workload)
        return SpaceFile(workload=workload)
    if group in ("workload", "baseline", "quality", "gate"):
        return _checked(_convert({group: {field: value}}, where), where)
    return _checked(_convert({"knobs": {name: value}}, where), where)


def _check_settings(settings: Sequence[str], left_out: Mapping[str, str]) -> None:
    """What a user asked for by name and cannot have is an error, not a note."""
    for setting in settings:
        knob = setting.partition("=")[0]
        for what, reason in left_out.items():
            if what.startswith(f"{knob}="):
                raise BadInput(f"--set {format_value(setting)}: {what} cannot be had here: {reason}")


# ---- checking -------------------------------------------------------------------------------------------------------


def _checked(written: SpaceFile, where: str) -> SpaceFile:
    """The file, if every knob in it is known and every value one that its knob can have."""
    for name, values in written.knobs.items():
        _check_knob(where, f"knobs.{name}", name)
        for device, listed in values.items() if isinstance(values, dict) else (("", values),):
            if device and device not in DEVICES:
                raise BadInput(f"{where}: knobs.{name}.{format_value(device)}: values are listed for cpu and cuda")
            _check_listed(where, f"knobs.{name}", name, listed if isinstance(listed, list) else [listed])
    for name, value in written.baseline.items():
        _check_value(where, f"baseline.{name}", name, value)
        if KNOBS[name].acts != "call":
            raise BadInput(
                f"{where}: baseline.{name}: the baseline is the untouched pipeline, only its call can be set"
            )
    for recipe in written.recipes:
        for name, value in recipe.values.items():
            _check_value(where, f"recipes.{format_value(recipe.name)}", name, value)
    tolerance = written.quality.tolerance
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise BadInput(f"{where}: quality.tolerance: {tolerance} must be a number of points, 0 or more")
    _check_workload(where, written.workload)
    return written


def _check_knob(where: str, field: str, name: str) -> None:
    if name not in KNOBS:
        near = difflib.get_close_matches(name, KNOBS, n=1)
        hint = f"did you mean {near[0]}?" if near else "`tune knobs` lists them"
        raise BadInput(f"{where}: {format_value(field)}: unknown knob; {hint}")


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


# ---- what of it can be used here ------------------------------------------------------------------------------------


def _workload(path: Path, fields: WorkloadFields, architecture: Architecture, settings: Sequence[str]) -> Workload:
    """What is drawn. An error names the setting that a field came from, where that was not the file."""
    origin = {setting.partition("=")[0]: f"--set {format_value(setting)}" for setting in settings}
    prompts = fields.prompts
    if prompts is None or isinstance(prompts, str):
        raise BadInput(f"{path}: workload.prompts is missing: a list, or the name of a file beside this one")
    seeds = tuple(range(len(prompts))) if fields.seeds is None else fields.seeds
    if len(seeds) != len(prompts):
        where = origin.get("workload.seeds") or origin.get("workload.prompts", str(path))
        raise BadInput(f"{where}: workload.seeds: {len(seeds)} seeds for {len(prompts)} prompts, they pair up")
    arguments = fields.arguments or {}
    given = [f"workload.{name}" for name in FIELDS if getattr(fields, name) is not None]
    for field in given + [f"workload.arguments.{name}" for name in arguments]:
        name = field.rpartition(".")[2]
        if name not in architecture.arguments or (name in FIXED_ARGUMENTS and field not in given):
            where = origin.get(field if field in given else "workload.arguments", str(path))
            raise BadInput(
                f"{where}: {format_value(field)}: {architecture.pipeline_class} takes no such argument from a space"
            )
    return Workload(
        prompts=prompts, seeds=seeds, height=fields.height, width=fields.width, num_frames=fields.num_frames,
        guidance_scale=fields.guidance_scale, max_sequence_length=fields.max_sequence_length, arguments=arguments,
        latency_target_s=fields.latency_target_s,
    )  # fmt: skip


def _check_workload(where: str, fields: WorkloadFields) -> None:
    """Of each field by itself; whether the pipeline takes it is another question."""
    if isinstance(fields.prompts, tuple) and not (fields.prompts and all(map(str.strip, fields.prompts))):
        raise BadInput(f"{where}: workload.prompts: at least one prompt, and none of them empty")
    if not all(0 <= seed < 2**63 for seed in fields.seeds or ()):
        raise BadInput(f"{where}: workload.seeds: a seed is a whole number from 0 to 2**63 - 1")
    for name in ("height", "width"):
        side = getattr(fields, name)
        if side is not None and not 8 <= side <= MAX_PIXELS:
            raise BadInput(f"{where}: workload.{name}: {side} is in pixels, from 8 to {MAX_PIXELS}")
    if fields.guidance_scale is not None and not math.isfinite(fields.guidance_scale):
        raise BadInput(f"{where}: workload.guidance_scale: {fields.guidance_scale} is not a number")
    target_s = fields.latency_target_s
    if target_s is not None and not 0 < target_s < math.inf:
        raise BadInput(f"{where}: workload.latency_target_s: {target_s} is in seconds, above 0")
    for name, unit in (("num_frames", "frames"), ("max_sequence_length", "tokens")):
        value = getattr(fields, name)
        if value is not None and value < 1:
            raise BadInput(f"{where}: workload.{name}: {value} is in {unit}, at least 1")

"""Make the workload of a study from the fields of a space file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tuner.errors import BadInput, did_you_mean
from tuner.records.codec import Value
from tuner.records.model import Architecture, Workload
from tuner.records.text import shown
from tuner.space.schema import WorkloadFields

ARGUMENT_FIELDS = ("height", "width", "num_frames", "guidance_scale", "max_sequence_length", "negative_prompt")
FIXED_ARGUMENTS = {
    "prompt", "generator", "num_inference_steps", "output_type", "return_dict", "latents", "num_images_per_prompt",
    "num_videos_per_prompt", *ARGUMENT_FIELDS,
}  # fmt: skip
"""Arguments of a pipeline's call that the tuner sets itself, or that the workload has a field for."""


OBJECT_ARGUMENT = re.compile(r"^callback|_embeds$|_mask$|^(\w+_)?image$|_kwargs$|^latents$|_embeds_list$")
"""Arguments that are tensors, images, functions or dictionaries in every pipeline of diffusers."""

FIELD_OF_ARGUMENT = {
    "prompt": "workload.prompts", "num_inference_steps": "steps (or baseline.steps)", "num_images_per_prompt": "batch",
    "num_videos_per_prompt": "batch",
}  # fmt: skip


def make_workload(
    path: Path, fields: WorkloadFields, architecture: Architecture, origins: Mapping[str, str]
) -> Workload:
    """Make a workload for a pipeline. Seeds default to 0, 1, 2, ...

    `origins` maps a field that the command line set to that setting. Raises BadInput with the setting or the file, and
    the field.
    """
    prompts = fields.prompts
    if prompts is None or isinstance(prompts, str):
        raise BadInput(f"{path}: workload.prompts is missing: a list, or the name of a file beside this one")
    _check_arguments(path, fields, architecture, origins)
    try:
        return Workload(
            prompts=prompts, seeds=tuple(range(len(prompts))) if fields.seeds is None else fields.seeds,
            height=fields.height, width=fields.width, num_frames=fields.num_frames,
            guidance_scale=fields.guidance_scale, max_sequence_length=fields.max_sequence_length,
            negative_prompt=fields.negative_prompt,
            arguments=fields.arguments or {}, latency_target_s=fields.latency_target_s,
        )  # fmt: skip
    except ValueError as error:
        where = origins.get("workload.seeds") or origins.get("workload.prompts", str(path))
        raise BadInput(f"{where}: workload.{error}") from None


def _check_arguments(
    path: Path, fields: WorkloadFields, architecture: Architecture, origins: Mapping[str, str]
) -> None:
    """Refuse arguments that the pipeline's call does not take, and those that are not the space's to set."""
    for name in (name for name in ARGUMENT_FIELDS if getattr(fields, name) is not None):
        if name not in architecture.arguments:
            raise _refused(origins.get(f"workload.{name}", path), f"workload.{name}", architecture)
    for name, value in (fields.arguments or {}).items():
        _check_type(origins.get(f"workload.arguments.{name}", path), name, value, architecture)
        if name not in architecture.arguments or name in FIXED_ARGUMENTS:
            where = origins.get(f"workload.arguments.{name}") or origins.get("workload.arguments") or path
            raise _refused(where, f"workload.arguments.{name}", architecture)


def _check_type(where: str | Path, name: str, value: Value, architecture: Architecture) -> None:
    """Refuse a text where the default is a number, and anything where the call takes an object of Python's."""
    default = architecture.arguments.get(name)
    if OBJECT_ARGUMENT.search(name) and name in architecture.arguments and name not in FIXED_ARGUMENTS:
        raise BadInput(f"{where}: workload.arguments.{name}: it takes an object of Python's, which a space cannot hold")
    if isinstance(default, int | float) and not isinstance(default, bool) and isinstance(value, str):
        reason = f"must be a number such as {shown(default)}, not the text {shown(value)!r}"
        raise BadInput(f"{where}: workload.arguments.{name}: {reason}")


def _refused(where: str | Path, field: str, architecture: Architecture) -> BadInput:
    """Return the error of an argument: there is a field for it, another is meant, or the pipeline does not take it."""
    name, pipeline = field.rpartition(".")[2], architecture.pipeline_class
    if name in ARGUMENT_FIELDS and name in architecture.arguments:
        hint = f"set it with workload.{name}"
    elif name in FIELD_OF_ARGUMENT:
        hint = f"set it with {FIELD_OF_ARGUMENT[name]}"
    elif name in FIXED_ARGUMENTS and name in architecture.arguments:
        hint = "the tuner sets it itself"
    else:
        free = [argument for argument in architecture.arguments if argument not in FIXED_ARGUMENTS]
        hint = did_you_mean(name, free, f"its call has no argument {shown(name)}")
    return BadInput(f"{where}: {shown(field)}: {pipeline} takes no such argument from a space; {hint}")

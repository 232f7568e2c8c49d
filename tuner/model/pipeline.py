"""Find, load and call a pipeline. Weights come from safetensors only, and no code of the model's is run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.demo import PIPELINE_DIR, SCORER_DIR
from tuner.errors import BadInput
from tuner.model import architecture
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import Architecture, Model, Workload

DEMO = "demo"
"""The name of the pipeline, and of the scorer, that come with the package."""

DEFAULT_SCORER = "openai/clip-vit-base-patch16"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(name: str, revision: str | None, scorer: str | None) -> tuple[Model, Architecture]:
    """Find a pipeline by name: `demo`, a folder, or a hub id. Imports no torch.

    Raises BadInput when there is no such pipeline, when it is not one of diffusers, or when it cannot be tuned.
    """
    index, source, commit = _find(name, revision)
    known = architecture.read(index)
    reason = architecture.unsupported_reason(known)
    if reason:
        raise BadInput(f"{name}: {reason}")
    scorer_name = _scorer(scorer or (DEMO if name == DEMO else DEFAULT_SCORER))
    return Model(source=source, revision=commit, pipeline_class=known.pipeline_class, scorer=scorer_name), known


def _find(name: str, revision: str | None) -> tuple[Path, str, str | None]:
    """Find the index of a pipeline, its source as best_config.json names it, and the commit of a hub id."""
    if revision is not None and (name == DEMO or os.path.isdir(name)):  # noqa: PTH112
        raise BadInput(f"--revision {revision}: only a hub id has revisions, {name} is a folder")
    if name == DEMO:
        return PIPELINE_DIR / "model_index.json", DEMO, None
    if os.path.isdir(name):  # noqa: PTH112  (Path.is_dir raises when a name is too long)
        folder = Path(name).resolve()
        index = folder / "model_index.json"
        if not index.is_file():
            raise BadInput(f"{folder}: not a diffusers pipeline, it has no model_index.json")
        return index, str(folder), None
    if HUB_ID.fullmatch(name) and not name.startswith("."):
        return _hub(name, revision)
    raise BadInput(f"{name}: no such folder, and not a hub id (owner/name); `demo` is the pipeline that comes along")


def _hub(name: str, revision: str | None) -> tuple[Path, str, str | None]:
    from huggingface_hub import HfApi, snapshot_download

    try:
        commit = HfApi().model_info(name, revision=revision).sha
        settings = ["model_index.json", "*/config.json", "*/scheduler_config.json"]
        folder = Path(snapshot_download(name, revision=commit, allow_patterns=settings))
        return folder / "model_index.json", name, commit
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise BadInput(f"{name}: not a folder here, and it could not be read from the hub: {reason}") from None


def _scorer(name: str) -> str:
    """Return `demo`, a hub id, or the absolute path of a folder. Raises BadInput if it is none of them."""
    if name == DEMO:
        return name
    if os.path.isdir(name):  # noqa: PTH112
        if not (Path(name) / "config.json").is_file():
            raise BadInput(f"--scorer {name}: not a model's folder, it has no config.json")
        return str(Path(name).resolve())
    if HUB_ID.fullmatch(name) and not name.startswith("."):
        return name
    raise BadInput(f"--scorer {name}: no such folder, and not a hub id (owner/name)")


def scorer_source(model: Model) -> str:
    """Return the folder or hub id of the model that scores the images."""
    return str(SCORER_DIR) if model.scorer == DEMO else model.scorer


def load(model: Model, environment: Environment, dtype: Value) -> Any:
    """Load the pipeline onto the device, in `dtype`, without its progress bar. Imports torch and diffusers."""
    import diffusers
    import torch

    pipeline_type: Any = getattr(diffusers, model.pipeline_class, None)
    if diffusers.DiffusionPipeline not in getattr(pipeline_type, "__mro__", ()):
        raise BadInput(f"{model.source}: diffusers has no pipeline class {model.pipeline_class}")
    source = str(PIPELINE_DIR) if model.source == DEMO else model.source
    pipe: Any = pipeline_type.from_pretrained(
        source, revision=model.revision, dtype=getattr(torch, str(dtype)), use_safetensors=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(environment.device)


def call_arguments(workload: Workload, knob_arguments: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """Return the arguments that all calls of a workload with `batch` prompts share, and those that knobs set."""
    names = ("height", "width", "num_frames", "guidance_scale", "max_sequence_length", "negative_prompt")
    fields = {name: getattr(workload, name) for name in names if getattr(workload, name) is not None}
    given = {
        name: [value] * batch if isinstance(value, str) and "prompt" in name else value
        for name, value in {**fields, **workload.arguments}.items()
    }
    return {**given, **knob_arguments}


def generate(
    pipe: Any, workload: Workload, indices: Sequence[int], knob_arguments: Mapping[str, Any], **more: Any
) -> Any:
    """Generate the images of these prompts of a workload in one call, each from its own seed whatever the batch."""
    import torch

    output = pipe(
        prompt=[workload.prompts[index] for index in indices],  # a new list: some pipelines rewrite it in place
        generator=[torch.Generator().manual_seed(workload.seeds[index]) for index in indices],
        **call_arguments(workload, knob_arguments, len(indices)),
        **more,
    )
    return output.images if hasattr(output, "images") else output.frames

"""Which pipeline a name means, and loading it safely: safetensors only, no code from the folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuner.demo import PIPELINE_DIR, SCORER_DIR
from tuner.errors import BadInput
from tuner.record import Environment, Model, Value, Workload

DEMO = "demo"
"""Names the pipeline, and the scorer, that come with the package."""

DEFAULT_SCORER = "openai/clip-vit-base-patch16"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(name: str, revision: str | None, scorer: str | None) -> Model:
    """Find a pipeline by name: `demo`, a folder, or a hub id. Imports no torch.

    Raises BadInput when there is none, or when what is there is not a diffusers pipeline.
    """
    if revision is not None and (name == DEMO or os.path.isdir(name)):  # noqa: PTH112
        raise BadInput(f"--revision {revision}: only a hub id has revisions, {name} is a folder")
    if name == DEMO:
        index = PIPELINE_DIR / "model_index.json"
        return Model(source=DEMO, revision=None, pipeline_class=_class_of(index), scorer=_scorer(scorer or DEMO))
    if os.path.isdir(name):  # noqa: PTH112  (Path.is_dir raises when a name is too long)
        folder = Path(name).resolve()
        index = folder / "model_index.json"
        if not index.is_file():
            raise BadInput(f"{folder}: not a diffusers pipeline, it has no model_index.json")
        return Model(
            source=str(folder), revision=None, pipeline_class=_class_of(index), scorer=_scorer(scorer or DEFAULT_SCORER)
        )
    if HUB_ID.fullmatch(name) and not name.startswith("."):
        return _hub(name, revision, _scorer(scorer or DEFAULT_SCORER))
    raise BadInput(f"{name}: no such folder, and not a hub id (owner/name); `demo` is the pipeline that comes along")


def _scorer(name: str) -> str:
    """`demo`, a hub id, or a folder as an absolute path."""
    if name == DEMO:
        return name
    if os.path.isdir(name):  # noqa: PTH112
        if not (Path(name) / "config.json").is_file():
            raise BadInput(f"--scorer {name}: not a model's folder, it has no config.json")
        return str(Path(name).resolve())
    if HUB_ID.fullmatch(name) and not name.startswith("."):
        return name
    raise BadInput(f"--scorer {name}: no such folder, and not a hub id (owner/name)")


def _hub(name: str, revision: str | None, scorer: str) -> Model:
    from huggingface_hub import HfApi, hf_hub_download

    try:
        commit = HfApi().model_info(name, revision=revision).sha
        index = Path(hf_hub_download(name, "model_index.json", revision=commit))
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise BadInput(f"{name}: not a folder here, and the hub did not give it: {reason}") from None
    return Model(source=name, revision=commit, pipeline_class=_class_of(index), scorer=scorer)


def _class_of(index: Path) -> str:
    try:
        name = json.loads(index.read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"{index}: not a pipeline index with a _class_name") from None
    if not isinstance(name, str) or not name.isidentifier():
        raise BadInput(f"{index}: _class_name must be the name of a diffusers pipeline class")
    return name


def scorer_source(model: Model) -> str:
    """The folder or hub id of the model that scores the pictures."""
    return str(SCORER_DIR) if model.scorer == DEMO else model.scorer


def load(model: Model, environment: Environment, dtype: Value) -> Any:
    """The pipeline on the device, in `dtype`, without its progress bar. Imports torch and diffusers."""
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


def call_arguments(workload: Workload, steps: int) -> dict[str, Any]:
    """The arguments that every call of this workload has in common."""
    optional = {"guidance_scale": workload.guidance_scale, "max_sequence_length": workload.max_sequence_length}
    return {
        "num_inference_steps": steps,
        "height": workload.height,
        "width": workload.width,
        **{name: value for name, value in optional.items() if value is not None},
    }


def draw(pipe: Any, workload: Workload, indices: Sequence[int], steps: int, **more: Any) -> Any:
    """The workload's pictures at these prompt indices, in one call, each from its own seed whatever the batch."""
    import torch

    return pipe(
        [workload.prompts[index] for index in indices],
        generator=[torch.Generator().manual_seed(workload.seeds[index]) for index in indices],
        **call_arguments(workload, steps),
        **more,
    ).images

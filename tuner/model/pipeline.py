"""Find, load and call a pipeline. Weights come from safetensors only, and no code of the model's is run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tuner.demo import PIPELINE_DIR, SCORER_DIR
from tuner.errors import BadInput
from tuner.files import absent, kind_at, require_regular_files, resolved
from tuner.model import architecture, hub, hub_listing, names
from tuner.records.codec import Value
from tuner.records.machine import Environment
from tuner.records.model import DENOISERS, Architecture, Model, Workload

DEMO = "demo"
"""The name of the pipeline, and of the scorer, that come with the package."""

DEFAULT_SCORER = "openai/clip-vit-base-patch16"
ARGUMENT_FIELDS = ("height", "width", "num_frames", "guidance_scale", "max_sequence_length", "negative_prompt")
"""The fields of a workload that are arguments of the call."""

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


class Found(NamedTuple):
    """A pipeline's index file, and what Model says of it: its source, the commit of a hub id, variant and base.

    `listed` are the files that the hub has of it, None if it was not asked.
    """

    index_file: Path
    source: str
    commit: str | None
    variant: str | None = None
    base: str | None = None
    listed: tuple[str, ...] | None = None


def resolve(
    name: str, revision: str | None, scorer: str | None, variant: str | None = None, base: str | None = None
) -> tuple[Model, Architecture]:
    """Find a pipeline by name: `demo`, a folder, a checkpoint file, a hub id or its address. Imports no torch.

    Raises BadInput when there is no such pipeline, when it is not one of diffusers, or when it cannot be tuned.
    """
    found = _find(name, revision, variant, base)
    known = architecture.read(found.index_file)
    reason = architecture.unsupported_reason(known)
    if reason:
        raise BadInput(f"{name}: {reason}")
    if found.listed and found.base is None:
        hub_listing.check_listing(found.source, found.index_file, found.listed)
    scorer_name = _scorer(scorer or (DEMO if name == DEMO else DEFAULT_SCORER))
    model = Model(
        source=found.source, revision=found.commit, pipeline_class=known.pipeline_class, scorer=scorer_name,
        variant=found.variant, base=found.base,
    )  # fmt: skip
    return model, known


def _find(given: str, given_revision: str | None, variant: str | None, base: str | None) -> Found:
    name, revision = names.from_address(given, given_revision)
    if os.path.isfile(name):  # noqa: PTH113
        return _checkpoint(resolved(name), revision, variant, base)
    if base is not None:
        raise BadInput(f"--base {base}: only a checkpoint file needs the pipeline that it belongs to")
    if revision is not None and (name == DEMO or os.path.isdir(name)):  # noqa: PTH112
        raise BadInput(f"--revision {revision}: only a hub id has revisions, {name} is a folder")
    if name == DEMO:
        return Found(PIPELINE_DIR / "model_index.json", DEMO, None, names.choose_variant(PIPELINE_DIR, variant))
    if os.path.isdir(name):  # noqa: PTH112  (Path.is_dir raises when a name is too long)
        folder = resolved(name)
        index = folder / "model_index.json"
        if not index.is_file():
            raise BadInput(f"{folder}: {names.no_pipeline_reason(folder)}")
        return Found(index, str(folder), None, names.choose_variant(folder, variant))
    if HUB_ID.fullmatch(name) and not name.startswith(".") and kind_at(name) is None:
        return _on_hub(name, revision, variant)
    demo = "did you mean demo?" if name.lower().strip("./") == DEMO else "`demo` is the pipeline that comes along"
    hint = f", and not a hub id (owner/name); {demo}" if kind_at(name) is None else ""
    raise BadInput(f"{name}: {absent(name, 'folder or file')}{hint}")


def _on_hub(name: str, revision: str | None, variant: str | None) -> Found:
    """Find a pipeline on the hub or in its cache, and the variant of its weights."""
    index_file, commit, listed = hub.find(name, revision)
    if listed is None:
        return Found(index_file, name, commit, names.choose_variant(index_file.parent, variant))
    hub_listing.require_index(name, listed)
    components = hub_listing.files_by_component(index_file, listed)
    return Found(index_file, name, commit, names.variant_of(name, components, variant), listed=listed)


def _checkpoint(file: Path, revision: str | None, variant: str | None, base: str | None) -> Found:
    """Find the pipeline that a checkpoint file belongs to: the one of --base, or that of its family on the hub."""
    title, default = names.family(names.check_file(file)) or ("", "")
    if not (base or default):
        raise BadInput(
            f"{file}: not in the original layout of SD 1.5, SD 2, SDXL, SD 3 or FLUX.1; give the pipeline that it "
            "belongs to, a folder or a hub id, with --base MODEL"
        )
    try:
        found = _find(base or default, revision, variant, None)
    except BadInput as error:
        if base is not None:
            raise
        raise BadInput(
            f"{file}: a checkpoint of {title} without its configuration; give a pipeline of {title}, a folder or a hub "
            f"id, with --base MODEL ({error})"
        ) from None
    return found._replace(source=str(file), base=found.source)


def _scorer(given: str) -> str:
    """Return `demo`, a hub id, or the absolute path of a folder. Raises BadInput if it is none of them."""
    name, _ = names.from_address(given, None)
    if name == DEMO:
        return name
    if os.path.isdir(name):  # noqa: PTH112
        if not (Path(name) / "config.json").is_file():
            raise BadInput(f"--scorer {name}: not a model's folder, it has no config.json")
        require_regular_files(Path(name))
        return str(resolved(name))
    if HUB_ID.fullmatch(name) and not name.startswith(".") and kind_at(name) is None:
        return name
    hint = ", and not a hub id (owner/name)" if kind_at(name) is None else ""
    raise BadInput(f"--scorer {name}: {absent(name, 'folder')}{hint}")


def settings_folder(model: Model) -> Path | None:
    """Return the folder with the configurations of a pipeline's components, None if it is not on this machine."""
    source = model.base or model.source
    if source == DEMO:
        return PIPELINE_DIR
    return Path(source) if os.path.isdir(source) else hub.cached(source, model.revision)  # noqa: PTH112


def scorer_source(model: Model) -> str:
    """Return the folder or hub id of the model that scores the images."""
    return str(SCORER_DIR) if model.scorer == DEMO else model.scorer


def read(model: Model, dtype: Value) -> Any:
    """Read the pipeline into the host's memory, in `dtype`, without its progress bar. Imports torch and diffusers."""
    import diffusers
    import torch

    pipeline_type: Any = getattr(diffusers, model.pipeline_class, None)
    if diffusers.DiffusionPipeline not in getattr(pipeline_type, "__mro__", ()):
        raise BadInput(f"{model.source}: diffusers has no pipeline class {model.pipeline_class}")
    pipe = _load(pipeline_type, model, getattr(torch, str(dtype)))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load(model: Model, environment: Environment, dtype: Value) -> Any:
    """Load the pipeline onto the device, in `dtype`. Imports torch and diffusers."""
    return read(model, dtype).to(environment.device)


def _load(pipeline_type: Any, model: Model, dtype: Any) -> Any:
    """Load a pipeline's components, those that a checkpoint file holds from there."""
    source = model.base or model.source
    folder, components = str(PIPELINE_DIR) if source == DEMO else source, {}
    offline = model.revision is not None and not hub.is_reachable(source, model.revision)
    if model.base is not None:
        if names.holds_whole_pipeline(names.weight_names(Path(model.source))):
            return pipeline_type.from_single_file(
                model.source, config=folder, revision=model.revision, torch_dtype=dtype, local_files_only=offline
            )
        components = _denoiser_from_file(pipeline_type, model, folder, dtype, offline)
    return pipeline_type.from_pretrained(
        folder, revision=model.revision, dtype=dtype, use_safetensors=True, variant=model.variant,
        local_files_only=offline, **components,
    )  # fmt: skip


def _denoiser_from_file(pipeline_type: Any, model: Model, folder: str, dtype: Any, offline: bool) -> dict[str, Any]:
    """Load the denoiser of a checkpoint file, with the configuration of the base's."""
    import diffusers

    index = pipeline_type.load_config(folder, revision=model.revision, local_files_only=offline)
    name = next(name for name in DENOISERS if name in index)
    denoiser_type: Any = getattr(diffusers, index[name][1])
    return {
        name: denoiser_type.from_single_file(
            model.source, config=folder, subfolder=name, config_revision=model.revision, dtype=dtype,
            local_files_only=offline,
        )
    }  # fmt: skip


def call_arguments(workload: Workload, knob_arguments: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """Return the arguments that all calls of a workload with `batch` prompts share, and those that knobs set."""
    fields = {name: getattr(workload, name) for name in ARGUMENT_FIELDS if getattr(workload, name) is not None}
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

"""The statements that load the untouched pipeline as this package does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tuner.demo import PIPELINE_DIR
from tuner.errors import BadInput
from tuner.knobs.code import call
from tuner.model import architecture, names, pipeline
from tuner.records.model import Denoiser, Model
from tuner.result.records import BestConfig


def folder(source: str | None) -> str:
    """Return the folder, file or hub id that diffusers loads a model's source or base from."""
    return str(PIPELINE_DIR) if source == pipeline.DEMO else str(source)


def imported_classes(best: BestConfig) -> list[str]:
    """Return the classes of diffusers that loading needs."""
    denoiser = _denoiser_in_file(best.model)
    return [best.model.pipeline_class, *([denoiser.class_name] if denoiser else [])]


def loading(best: BestConfig) -> Iterator[str]:
    """Yield the lines that load the untouched pipeline. Raises BadInput if a checkpoint file is not here."""
    model, dtype = best.model, f"torch.{best.chosen.values['precision.dtype']}"
    revision = {"revision": model.revision} if model.revision else {}
    weights = {"use_safetensors": True, **({"variant": model.variant} if model.variant else {})}
    load = f"{model.pipeline_class}.from_pretrained"
    denoiser = _denoiser_in_file(model)
    if model.base is None:
        yield f"pipe = {_with(call(load, **revision, **weights), 'model', f'dtype={dtype}')}"
    elif denoiser is None:
        read = call(f"{model.pipeline_class}.from_single_file", config=folder(model.base), **revision)
        yield f"pipe = {_with(read, 'model', f'torch_dtype={dtype}')}"
    else:
        pinned = {"config_revision": model.revision} if model.revision else {}
        name = denoiser.component
        read = call(f"{denoiser.class_name}.from_single_file", config=folder(model.base), subfolder=name, **pinned)
        yield f"{name} = {_with(read, 'model', f'dtype={dtype}')}"
        whole = call(load, **revision, **weights)
        yield f"pipe = {_with(whole, repr(folder(model.base)), f'dtype={dtype}', f'{name}={name}')}"


def _with(written: str, first: str, *named: str) -> str:
    """Add a first argument, and named ones behind it, to a call that is written already."""
    function, _, rest = written.partition("(")
    return f"{function}({', '.join(filter(None, [first, *named, rest.removesuffix(')')]))})"


def _denoiser_in_file(model: Model) -> Denoiser | None:
    """Return the denoiser of a checkpoint file that holds nothing else, or None."""
    if model.base is None:
        return None
    if not Path(model.source).is_file():
        raise BadInput(f"model.source: no file {model.source} here, and it says how it is loaded: export where it is")
    if names.holds_whole_pipeline(names.weight_names(Path(model.source))):
        return None
    settings = pipeline.settings_folder(model)
    if settings is None:
        raise BadInput(f"model.base: {model.base} is not on this machine, and its index names the denoiser")
    return architecture.read(settings / "model_index.json").denoisers[0]

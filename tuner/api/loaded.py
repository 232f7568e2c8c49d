"""A pipeline that is already loaded: where its trials load it from, each in a process of its own."""

from __future__ import annotations

import os
from typing import Any

from tuner.errors import BadInput
from tuner.model.json_file import read_object
from tuner.model.pipeline import settings_folder
from tuner.records.model import Model

REMEDY = "save it with save_pretrained(FOLDER) and tune that folder"


def source_of(model: Any) -> str:
    """Return the folder or hub id that a pipeline was loaded from; a path or a name is returned as text.

    Raises BadInput for a pipeline that does not say it.
    """
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    config: Any = getattr(model, "config", None)
    source = config.get("_name_or_path") if hasattr(config, "get") else None
    if not source:
        raise BadInput(f"this {type(model).__name__} does not say where it was loaded from: {REMEDY}")
    return str(source)


def require_as_saved(pipe: Any, model: Model) -> None:
    """Raise BadInput if a pipeline has other components than its source, or a LoRA: its trials would lack them."""
    folder = settings_folder(model)
    saved = read_object(folder / "model_index.json") if folder is not None else {}
    for name, kind in saved.items():
        now = pipe.config.get(name)
        if isinstance(kind, list) and now is not None and list(now) != kind:
            raise BadInput(f"the pipeline's {name} is a {now[1]}, that of {model.source} a {kind[1]}: {REMEDY}")
    adapters = pipe.get_list_adapters() if hasattr(pipe, "get_list_adapters") else {}
    if any(adapters.values()):
        raise BadInput(f"the pipeline has a LoRA, which {model.source} has not: fuse it, then {REMEDY}")

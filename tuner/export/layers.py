"""The linear layers that diffusers must leave alone, so that it quantizes the layers that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuner.knobs.quantization import SCHEMES, is_left_out, suits
from tuner.model import architecture, pipeline
from tuner.model.safetensors_file import read_header
from tuner.records.model import Denoiser
from tuner.result.records import BestConfig

SUFFIX = ".weight"


def denoisers(best: BestConfig) -> tuple[Denoiser, ...] | None:
    """Return the denoisers of the pipeline, or None if its configuration is not on this machine."""
    folder = pipeline.settings_folder(best.model)
    return architecture.read(folder / "model_index.json").denoisers if folder else None


def left_alone(best: BestConfig, denoiser: Denoiser, scheme: str) -> list[str] | None:
    """Return the names, as short as possible, of the modules that must not be converted.

    None if the weights are not on this machine, or if names cannot select these layers.
    """
    folder = pipeline.settings_folder(best.model)
    shapes = linear_shapes(folder / denoiser.component, best.model.variant) if folder else {}
    chosen = [name for name, sides in shapes.items() if _is_chosen(name, sides, denoiser.class_name, scheme)]
    others = [name for name in shapes if name not in set(chosen)]
    if scheme == "bnb-nf4":  # diffusers compares whole names there
        return others if chosen else None
    keys = sorted({shortest_suffix(name, chosen) for name in others})
    is_exact = [name for name in shapes if not is_excluded(name, keys)] == chosen
    return keys if chosen and is_exact else None


def linear_shapes(folder: Path, variant: str | None) -> dict[str, tuple[int, int]]:
    """Return the sides of all weights of two dimensions by the name of their module."""
    files = sorted(file for file in folder.glob("*.safetensors") if (f".{variant}." in file.name) == bool(variant))
    tensors = {name: tensor for file in files for name, tensor in read_header(file).tensors.items()}
    return {
        name.removesuffix(SUFFIX): (tensor.shape[0], tensor.shape[1])
        for name, tensor in tensors.items()
        if name.endswith(SUFFIX) and len(tensor.shape) == 2
    }


def _is_chosen(name: str, sides: tuple[int, int], class_name: str, scheme: str) -> bool:
    return not is_left_out(name, scheme, class_name) and suits(name, *sides, group=SCHEMES[scheme].group)


def shortest_suffix(name: str, chosen: Sequence[str]) -> str:
    """Return the shortest end of a module's name that excludes no chosen module, or else the name of its weight."""
    parts = name.split(".")
    suffixes = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
    return next(
        (suffix for suffix in suffixes if not any(is_excluded(other, [suffix]) for other in chosen)), name + SUFFIX
    )


def is_excluded(name: str, keys: Sequence[str]) -> bool:
    """Return whether diffusers leaves a module alone: a key is all of its weight's name, or ends at a dot in it."""
    return any(f"{key}." in f"{name}{SUFFIX}" or key == f"{name}{SUFFIX}" for key in keys)

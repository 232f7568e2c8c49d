"""The images of one configuration: drawn or read from a folder, with what was computed of them once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

FRAME_PAIRS = 4
"""Of a video so many pairs of neighbouring frames are judged, evenly spread."""


EMBEDDINGS = "embeddings.safetensors"
"""Beside the stills: what networks made of them, by the network's name."""


class Images:
    """Stills with their prompts: float array (count * each, height, width, 3) in 0..1, `each` frames of every video.

    `features` keeps the embeddings that a network made of the stills, by the network's name.
    """

    def __init__(self, stills: Any, prompts: Sequence[str], each: int = 1) -> None:
        if len(stills) != len(prompts) * each:
            raise ValueError(f"{len(stills)} stills for {len(prompts)} prompts of {each} each")
        self.stills = stills
        self.prompts = tuple(prompts)
        self.each = each
        self.features: dict[str, Any] = {}

    @classmethod
    def drawn(cls, images: Any, prompts: Sequence[str]) -> Images:
        """Of what a pipeline drew: (count, height, width, 3), or of videos (count, frames, height, width, 3).

        They are rounded to the 255ths that a file keeps, so that what is judged is what is kept.
        """
        import numpy as np

        stills = flat(images)
        rounded = (np.clip(stills, 0, 1) * 255).round().astype(np.float32) / 255
        return cls(rounded, prompts, len(stills) // len(images))

    @classmethod
    def load(
        cls, folder: Path, prompts: Sequence[str], count: int | None = None, each: int | None = None
    ) -> Images:  # fmt: skip
        """Those that `save` wrote: the first `count` prompts', or all.

        With `each`, the stills of a prompt, those of as many of them as the folder holds; without it the folder must
        hold all prompts'. Raises OSError when one is missing.
        """
        import numpy as np
        from PIL import Image
        from safetensors import safe_open

        stills = len(list(folder.glob("*.png")))
        chosen = tuple(prompts if count is None else prompts[:count])
        if each is not None:
            chosen = chosen[: stills // each]
        if not stills or not chosen:
            raise FileNotFoundError(f"{folder}: there are no images in it")
        if each is None:
            if stills % len(prompts):
                raise FileNotFoundError(f"{folder}: {stills} stills are not those of {len(prompts)} prompts")
            each = stills // len(prompts)
        arrays = []
        for index in range(len(chosen) * each):
            with Image.open(folder / name_of(index)) as image:
                arrays.append(np.asarray(image.convert("RGB")))
        images = cls(np.stack(arrays).astype(np.float32) / 255, chosen, each)
        if (folder / EMBEDDINGS).exists():
            with safe_open(folder / EMBEDDINGS, "np") as kept:
                images.features = {name: kept.get_tensor(name)[: len(arrays)] for name in list(kept.keys())}
        return images

    @cached_property
    def images(self) -> list[Any]:
        """The stills as PIL images."""
        import numpy as np
        from PIL import Image

        return [Image.fromarray((still * 255).round().astype(np.uint8)) for still in self.stills]

    @property
    def prompt_of_each(self) -> list[str]:
        """The prompt of every still."""
        return [prompt for prompt in self.prompts for _ in range(self.each)]

    def save(self, folder: Path) -> None:
        """Write the stills as 0000.png, 0001.png, ..., each moved into place when it is whole."""
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / ".still.part"
        for index, image in enumerate(self.images):
            image.save(part, "PNG")
            part.replace(folder / name_of(index))

    def save_features(self, folder: Path) -> None:
        """Write the embeddings beside the stills, so that no other process computes them again."""
        from safetensors.numpy import save_file

        if self.features:
            save_file(self.features, folder / EMBEDDINGS)

    def first(self, count: int) -> Images:
        """The first so many prompts' images."""
        if count >= len(self.prompts):
            return self
        part = Images(self.stills[: count * self.each], self.prompts[:count], self.each)
        part.features = {name: rows[: count * self.each] for name, rows in self.features.items()}
        return part

    def by_prompt(self, of_stills: Sequence[float]) -> tuple[float, ...]:
        """A value for each prompt: the mean of its stills' values."""
        each = self.each
        return tuple(
            float(sum(of_stills[start : start + each])) / each for start in range(0, len(self.prompts) * each, each)
        )


def name_of(index: int) -> str:
    """The file name of a still."""
    return f"{index:04}.png"


def judged_frames(images: Any) -> Any:
    """Images as they are; of videos pairs of neighbouring frames, evenly spread. What it gives it leaves as it is."""
    if images.ndim == 4:
        return images
    frames = images.shape[1]
    starts = {round(place * max(0, frames - 2) / max(1, FRAME_PAIRS - 1)) for place in range(FRAME_PAIRS)}
    return images[:, sorted({frame for start in starts for frame in (start, start + 1) if frame < frames})]


def flat(images: Any) -> Any:
    """Images as they are; of videos the frames that are judged, one after the other."""
    return images if images.ndim == 4 else judged_frames(images).reshape(-1, *images.shape[2:])


def each_of(images: Any) -> int:
    """How many stills are kept of each image that a pipeline drew."""
    return len(flat(images)) // len(images)

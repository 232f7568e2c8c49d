"""The images of one configuration, generated or loaded from a folder, with the embeddings computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from tuner.files import thumbnail_path

FRAME_PAIRS = 4
"""Pairs of neighbouring frames that are scored per video, evenly spaced."""

THUMBNAIL_SIDE = 512
"""Pixels of the longer side of small copies, which TensorBoard's pages are made of."""

WRITERS = 4
"""Threads that compress images: Pillow does that without Python's lock."""

PNG_LEVEL = 1
"""It takes a third to two thirds of the default level's time: of 1024 x 1024 noisy pixels 0.11 instead of 0.16 s. Their
file is 11 % larger."""

EMBEDDINGS = "embeddings.safetensors"
"""File beside the stills: the embeddings, by the name of the network that computed them."""


class Images:
    """Stills with their prompts.

    `stills` is a float array (prompts * stills_per_prompt, height, width, 3) in 0..1: one still per prompt for images,
    several frames for videos. `features` holds the embeddings of the stills, by the network's name.
    """

    def __init__(self, stills: Any, prompts: Sequence[str], stills_per_prompt: int = 1) -> None:
        if len(stills) != len(prompts) * stills_per_prompt:
            raise ValueError(f"got {len(stills)} stills for {len(prompts)} prompts with {stills_per_prompt} each")
        self.stills = stills
        self.prompts = tuple(prompts)
        self.stills_per_prompt = stills_per_prompt
        self.features: dict[str, Any] = {}

    @classmethod
    def from_pipeline(cls, images: Any, prompts: Sequence[str]) -> Images:
        """Wrap a pipeline's output: (count, height, width, 3), or of videos (count, frames, height, width, 3).

        Values are rounded to 8 bits as in the saved files, so that the scored images are the saved ones.
        """
        import numpy as np

        stills = to_stills(images)
        rounded = (np.clip(stills, 0, 1) * 255).round().astype(np.float32) / 255
        return cls(rounded, prompts, len(stills) // len(images))

    @classmethod
    def load(
        cls, folder: Path, prompts: Sequence[str], count: int | None = None, stills_per_prompt: int | None = None
    ) -> Images:
        """Load what `save` wrote, of the first `count` prompts (default: all).

        Without `stills_per_prompt` the folder must hold the stills of all prompts. With it the folder may hold fewer
        prompts, and those that it holds are loaded. Raises OSError if a still is missing.
        """
        import numpy as np

        found = len(list(folder.glob("*.png")))
        chosen = tuple(prompts if count is None else prompts[:count])
        if stills_per_prompt is not None:
            chosen = chosen[: found // stills_per_prompt]
        if not found or not chosen:
            raise FileNotFoundError(f"{folder}: there are no images in it")
        if stills_per_prompt is None:
            if found % len(prompts):
                raise FileNotFoundError(f"{folder}: {found} stills do not fit {len(prompts)} prompts")
            stills_per_prompt = found // len(prompts)
        pixels = [_read_still(folder / still_name(index)) for index in range(len(chosen) * stills_per_prompt)]
        images = cls(np.stack(pixels).astype(np.float32) / 255, chosen, stills_per_prompt)
        images.features = _read_features(folder / EMBEDDINGS, len(pixels))
        return images

    @classmethod
    def load_all(cls, folder: Path, prompts: Sequence[str], stills_per_prompt: int) -> Images:
        """Load what `save` wrote of all these prompts; the folder may hold more. Raises OSError if one is missing."""
        images = cls.load(folder, prompts, stills_per_prompt=stills_per_prompt)
        if len(images.prompts) < len(prompts):
            raise FileNotFoundError(f"{folder}: there are images of {len(images.prompts)} of {len(prompts)} prompts")
        return images

    @cached_property
    def pil_images(self) -> list[Any]:
        """The stills as PIL images."""
        import numpy as np
        from PIL import Image

        return [Image.fromarray((still * 255).round().astype(np.uint8)) for still in self.stills]

    @property
    def prompt_per_still(self) -> list[str]:
        """The prompt of every still."""
        return [prompt for prompt in self.prompts for _ in range(self.stills_per_prompt)]

    def save(self, folder: Path, first: int = 0) -> None:
        """Write the stills as 0000.png, 0001.png, ..., from the number `first` on, and small copies of large ones.

        Each file is moved into place when it is complete.
        """
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / still_name(first + index) for index in range(len(self.stills))]
        with ThreadPoolExecutor(WRITERS) as writers:
            list(writers.map(_write, self.pil_images, files))

    def save_features(self, folder: Path) -> None:
        """Write the embeddings beside the stills, so that no other process computes them again."""
        from safetensors.numpy import save_file

        if self.features:
            save_file(self.features, folder / EMBEDDINGS)

    def first(self, count: int) -> Images:
        """Return the images of the first `count` prompts."""
        return self if count >= len(self.prompts) else self.part(0, count)

    def part(self, first: int, end: int) -> Images:
        """Return the images of the prompts from one index up to another."""
        stills = slice(first * self.stills_per_prompt, end * self.stills_per_prompt)
        part = Images(self.stills[stills], self.prompts[first:end], self.stills_per_prompt)
        part.features = {name: rows[stills] for name, rows in self.features.items()}
        return part

    def extended(self, others: Images) -> Images:
        """Return these images and others, with the embeddings that both have."""
        import numpy as np

        both = Images(
            np.concatenate([self.stills, others.stills]), (*self.prompts, *others.prompts), self.stills_per_prompt
        )
        both.features = {
            name: np.concatenate([rows, others.features[name]])
            for name, rows in self.features.items()
            if name in others.features
        }
        return both

    def mean_by_prompt(self, values: Sequence[float]) -> tuple[float, ...]:
        """Average a value per still to a value per prompt."""
        size = self.stills_per_prompt
        starts = range(0, len(self.prompts) * size, size)
        return tuple(float(sum(values[start : start + size])) / size for start in starts)


def still_name(index: int) -> str:
    """Return the file name of a still."""
    return f"{index:04}.png"


def select_frames(images: Any) -> Any:
    """Return the frames of videos that are scored: pairs of neighbouring frames, evenly spaced. Images pass unchanged.

    Selecting twice gives the same frames as selecting once.
    """
    if images.ndim == 4:
        return images
    frames = images.shape[1]
    starts = {round(place * max(0, frames - 2) / max(1, FRAME_PAIRS - 1)) for place in range(FRAME_PAIRS)}
    return images[:, sorted({frame for start in starts for frame in (start, start + 1) if frame < frames})]


def to_stills(images: Any) -> Any:
    """Flatten the scored frames of videos into one array of stills. Images pass unchanged."""
    return images if images.ndim == 4 else select_frames(images).reshape(-1, *images.shape[2:])


def stills_per_image(images: Any) -> int:
    """Return how many stills are kept of each image or video that a pipeline generated."""
    return len(to_stills(images)) // len(images)


def _write(image: Any, file: Path) -> None:
    part = file.with_suffix(".part")
    image.save(part, "PNG", compress_level=PNG_LEVEL)
    part.replace(file)
    if max(image.size) > THUMBNAIL_SIDE:
        thumbnail_path(file).parent.mkdir(exist_ok=True)
        small = image.copy()
        small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        small.save(part, "JPEG", quality=90)
        part.replace(thumbnail_path(file))


def _read_still(file: Path) -> Any:
    import numpy as np
    from PIL import Image

    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def _read_features(file: Path, count: int) -> dict[str, Any]:
    from safetensors import safe_open

    if not file.exists():
        return {}
    with safe_open(file, "np") as stored:
        return {name: stored.get_tensor(name)[:count] for name in list(stored.keys())}

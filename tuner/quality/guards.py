"""Cheap checks that every set of pictures must pass before anything is measured on it."""

from __future__ import annotations

from typing import Any

from tuner.record import Workload

LEAST_DEVIATION = 2 / 255


class InvalidPicture(Exception):
    """A picture that no user would call one."""


def check(pictures: Any, count: int, workload: Workload) -> None:
    """`pictures`: float array (count, height, width, 3) in 0..1, of videos (count, frames, height, width, 3).

    Raises InvalidPicture naming the wrong one.
    """
    import numpy as np

    if pictures.ndim not in (4, 5) or len(pictures) != count or pictures.shape[-1] != 3:
        raise InvalidPicture(f"the pictures have shape {pictures.shape}, expected {count} of three colours")
    expected = (workload.height or pictures.shape[-3], workload.width or pictures.shape[-2])
    if pictures.shape[-3:-1] != expected:
        raise InvalidPicture(f"the pictures have {pictures.shape[-3:-1]} pixels, expected {expected}")
    for index, picture in enumerate(pictures):
        if not np.isfinite(picture).all():
            raise InvalidPicture(f"picture {index} contains NaN or infinity")
        if picture.std() < LEAST_DEVIATION:
            raise InvalidPicture(f"picture {index} is constant (standard deviation {picture.std():.4f} of 1)")
    if count > 1 and np.abs(pictures - pictures[0]).max() < LEAST_DEVIATION:
        raise InvalidPicture("all pictures are alike, although prompts and seeds differ")

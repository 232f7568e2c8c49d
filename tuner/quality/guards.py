"""Cheap checks that every set of images must pass before anything is measured on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tuner.quality.images import to_stills
from tuner.records.model import Workload

MIN_DEVIATION = 2 / 255

NOISE_CORRELATION = 0.3
"""Of neighbouring pixels, below which an image is noise: white noise has 0, photographs 0.9 and more."""

CORRELATED_ROWS = 256
"""Rows, and columns, that are correlated with their neighbours, or a few more."""

CLIPPED_SHARE = 0.9
"""The share of an image's values at 0 or 1 from which on it counts as saturated."""

APART = 0.1
"""The least difference, in the measured share, between an image that counts as noise or saturated and the baseline's:
else two nearly equal images could lie on either side of the limit."""

LOST_PROMPT = 0.25
"""The share of the baseline's margin by which images fit their own prompts better than others'. With less, the prompts
count as ignored."""

STRANGER = 0.35
"""A quarter of the images may be this near to how like the baseline's those from other seeds are, as a share of what
is left to perfect likeness. On the demo one step instead of 28 still gives 0.44."""

MAX_ALIKE = 0.8
"""Likeness of images from other seeds, above which a seed changes too little to tell."""

THUMBNAIL = 8
"""Pixels across, of the small images that are compared: what is where, whatever the detail."""


class InvalidImage(Exception):
    """An image that no user would call one."""


def check(images: Any, count: int, workload: Workload, baseline: Any = None) -> None:
    """`images`: float array (count, height, width, 3) in 0..1, of videos (count, frames, height, width, 3).

    With the `baseline`'s, image by image, also what only a comparison can tell: noise, and images at the ends of
    the range.
    Raises InvalidImage naming the wrong one.
    """
    check_each(images, range(count), workload, baseline)
    check_different(images, workload)


def check_each(images: Any, indices: Sequence[int], workload: Workload, baseline: Any = None) -> None:
    """Check the images of some prompts as `check` does, but not whether they differ from one another."""
    _check_shape(images, len(indices), workload)
    check_finite(images, indices)
    for index, image in zip(indices, images, strict=True):
        _not_constant(index, image)
    if baseline is not None:
        _check_beside(images, indices, baseline)


def check_finite(images: Any, indices: Sequence[int]) -> None:
    """Check that no image, or frame of a video, contains NaN or infinity. Raises InvalidImage with its index."""
    for index, image in zip(indices, images, strict=True):
        _finite(index, image)


def check_seeds(images: Any, baseline: Any, other_seeds: Any) -> None:
    """Check that images (stills, like the others) come from the baseline's seeds: more like its images than
    those of the same first prompts from other seeds are, all but a few. Where another sampler draws other noise it does
    not apply.

    Raises InvalidImage.
    """
    import numpy as np

    count = len(other_seeds)
    of_others = float(np.median(likeness(other_seeds, baseline[:count])))
    if of_others > MAX_ALIKE:
        return
    least = of_others + STRANGER * (1 - of_others)
    found = float(np.quantile(likeness(images, baseline[: len(images)]), 0.25))
    if found < least:
        raise InvalidImage(
            f"the images ignore their seeds: the likeness of a quarter of them to the baseline's is {found:.2f} or "
            f"less, that of images from other seeds {of_others:.2f} (from {least:.2f} on it is right)"
        )


def likeness(stills: Any, others: Any) -> Any:
    """Correlate each still with its counterpart by what is where, -1 to 1: of thumbnails without their mean
    colour, which the ground alone may give two images in common. Of stills without any layout it is 1."""
    import numpy as np

    ours, theirs = (thumbnails(of).reshape(len(of), -1, 3) for of in (stills, others))
    ours, theirs = ((of - of.mean(1, keepdims=True)).reshape(len(of), -1) for of in (ours, theirs))
    scale = np.sqrt((ours**2).sum(1) * (theirs**2).sum(1))
    return np.where(scale > 1e-9, (ours * theirs).sum(1) / np.maximum(scale, 1e-9), 1.0)


def check_prompts(margins: Sequence[float], baseline: Sequence[float]) -> None:
    """Check that images show their own prompts rather than others', from the margin of each (see `margins`).

    Raises InvalidImage when surely most of the baseline's margin is lost.
    """
    from tuner.quality.statistics import mean_of

    ours, theirs = mean_of(margins), mean_of(baseline)
    if theirs.low > 0 and ours.high < LOST_PROMPT * theirs.value:
        raise InvalidImage(
            f"the images ignore their prompts: they fit their own better than others' by {ours.value:.1f} points, "
            f"the baseline's by {theirs.value:.1f}"
        )


def margins(images: Any, prompts: Any) -> list[float]:
    """Return how much better each image fits its own prompt than the others on average, in points of CLIP score.

    Images and prompts are unit vectors (count, width).
    """
    points = 100 * images @ prompts.T
    count = len(points)
    return [float(row[index] - (row.sum() - row[index]) / max(1, count - 1)) for index, row in enumerate(points)]


def thumbnails(stills: Any) -> Any:
    """Return the mean colours of 8 x 8 fields of each still, as rows."""
    import numpy as np

    bands = [np.array_split(np.arange(size), min(size, THUMBNAIL)) for size in stills.shape[1:3]]
    rows = np.stack([stills[:, band].mean(1) for band in bands[0]], 1)
    fields = np.stack([rows[:, :, band].mean(2) for band in bands[1]], 2)
    return fields.reshape(len(stills), -1)


def _check_shape(images: Any, count: int, workload: Workload) -> None:
    if images.ndim not in (4, 5) or len(images) != count or images.shape[-1] != 3:
        raise InvalidImage(f"the images have shape {images.shape}, expected {count} of three colours")
    expected = (workload.height or images.shape[-3], workload.width or images.shape[-2])
    if images.shape[-3:-1] != expected:
        raise InvalidImage(f"the images have {images.shape[-3:-1]} pixels, expected {expected}")


def _finite(index: int, image: Any) -> None:
    import numpy as np

    if not np.isfinite(image).all():
        raise InvalidImage(f"image {index} contains NaN or infinity")


def _not_constant(index: int, image: Any) -> None:
    if image.std() < MIN_DEVIATION:
        what = "black" if image.max() < MIN_DEVIATION else "constant"
        raise InvalidImage(f"image {index} is {what} (standard deviation {image.std():.4f} of 1)")


def check_different(images: Any, workload: Workload) -> None:
    """Check that no two images with different prompts or seeds are the same. Raises InvalidImage."""
    import numpy as np

    flat = images.reshape(-1, *images.shape[-3:])
    each = len(flat) // len(images)
    small = thumbnails(flat[::each])
    asked = list(zip(workload.prompts, workload.seeds, strict=True))
    alike = []
    for index in range(1, len(images)):
        for other in np.flatnonzero(np.abs(small[:index] - small[index]).max(1) < MIN_DEVIATION):
            is_other = index >= len(asked) or asked[index] != asked[other]
            if is_other and np.abs(images[index] - images[other]).max() < MIN_DEVIATION:
                alike.append((int(other), index))
    if len({index for _, index in alike}) == len(images) - 1 and alike:
        raise InvalidImage("all images are alike, although prompts and seeds differ")
    if alike:
        raise InvalidImage(f"images {alike[0][0]} and {alike[0][1]} are the same, although prompt or seed differ")


def _check_beside(images: Any, indices: Sequence[int], baseline: Any) -> None:
    """Check that no image became noise or saturated whose counterpart is not."""
    ours, theirs = (to_stills(of).reshape(len(images), -1, *of.shape[-3:]) for of in (images, baseline))
    for what, measure, is_wrong in BESIDE:
        for index, image, known in zip(indices, ours, theirs, strict=True):
            value = measure(image)
            if not is_wrong(value):
                continue
            of_baseline = measure(known)
            if not is_wrong(of_baseline) and abs(value - of_baseline) > APART:
                raise InvalidImage(f"image {index} is {what} {value:.2f}, the baseline's {of_baseline:.2f}")


def neighbour_correlation(image: Any) -> float:
    """Correlate values with those below them and those to their right, and return the larger; (height, width, 3),
    of videos the first frame. Of a large image some rows and columns tell."""
    import numpy as np

    still = image.reshape(-1, *image.shape[-3:])[0]
    down, across = (max(1, size // CORRELATED_ROWS) for size in still.shape[:2])
    pairs = ((still[:-1:down], still[1::down]), (still[:, :-1:across], still[:, 1::across]))
    with np.errstate(invalid="ignore"):
        found = [float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in pairs if a.size > 1]
    return max(found, default=1.0)


def clipped_share(image: Any) -> float:
    """Return the share of values that are at the bottom or the top of the range, 0 to 1."""
    return float(((image <= 0.5 / 255) | (image >= 1 - 0.5 / 255)).mean())


BESIDE: tuple[tuple[str, Callable[[Any], float], Callable[[float], bool]], ...] = (
    ("noise: neighbouring pixels have a correlation of", neighbour_correlation, lambda x: x < NOISE_CORRELATION),
    ("saturated: the share of values that are 0 or 1 is", clipped_share, lambda x: x > CLIPPED_SHARE),
)
"""What an image may not be whose counterpart of the baseline's is not: what it is, by which figure, from where on."""

"""A judge of images that knows nothing of networks: it reads objects out of pixels and checks a caption.

Objects are the connected patches of strong colour on the muted ground. Shape is the best of four outlines,
pattern a fit of plane waves to the brightness inside. A patch that is none of these makes the image wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tuner.demo.captions import Caption, shown
from tuner.demo.scenes import AREA, COLOURS, HUES, SHAPES, Pixels, distance

CHROMA = 0.2  # of 1: what counts as coloured
SPECK = 8  # pixels: a smaller patch is ignored
OVERLAP = 0.80  # least intersection over union with a true outline
SPLIT_RADIUS = 10.0  # pixels: small below, large above
SLACK = 2.0  # pixels that a said place must hold by; captions leave more

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Seen:
    """One object as read. `overlap` is the intersection over union with the outline of its shape."""

    colour: str | None
    shape: str | None
    pattern: str | None
    size: str
    x: float
    y: float
    overlap: float

    @property
    def clean(self) -> bool:
        """True if colour, shape and pattern could all be read."""
        return None not in (self.colour, self.shape, self.pattern)


@dataclass(frozen=True)
class Reading:
    """All that is read from an image."""

    seen: tuple[Seen, ...]
    brightness: str


def read(image: Pixels) -> Reading:
    """Read a (64, 64, 3) uint8 image."""
    rgb = image.astype(np.float64) / 255
    value = rgb.max(-1)
    chroma = value - rgb.min(-1)
    labels, count = ndimage.label(chroma > CHROMA)
    masks = [labels == label for label in range(1, count + 1)]
    seen = tuple(_read_patch(mask, rgb, value, chroma) for mask in masks if mask.sum() >= SPECK)
    ground = value[~ndimage.binary_dilation(chroma > CHROMA, iterations=2)]
    brightness = "light" if ground.size and np.median(ground) > 0.48 else "dark"
    return Reading(seen, brightness)


def judge(image: Pixels, caption: Caption) -> tuple[bool, str]:
    """Return whether the image shows what the caption says, and if not, why."""
    reading = read(image)
    if not 2 <= len(reading.seen) <= 3:
        return False, f"{len(reading.seen)} objects"
    if not all(thing.clean for thing in reading.seen):
        return False, "an object that is no clean shape"
    if caption.brightness and caption.brightness != reading.brightness:
        return False, f"the ground is {reading.brightness}"
    if not shown(caption, reading.seen, reading.brightness, SLACK):
        return False, "the objects are not those of the caption"
    return True, ""


def _read_patch(mask: Mask, rgb: Floats, value: Floats, chroma: Floats) -> Seen:
    y, x = ndimage.center_of_mass(mask)
    overlaps = {shape: _overlap(mask, shape, x, y) for shape in SHAPES}
    shape = max(overlaps, key=lambda name: overlaps[name])
    radius = float(np.sqrt(mask.sum() / AREA[shape]))
    return Seen(
        colour=_colour(rgb[mask], chroma[mask]),
        shape=shape if overlaps[shape] >= OVERLAP else None,
        pattern=_pattern(mask, value),
        size="small" if radius < SPLIT_RADIUS else "large",
        x=float(x),
        y=float(y),
        overlap=overlaps[shape],
    )


def _overlap(mask: Mask, shape: str, x: float, y: float) -> float:
    template = distance(shape, x, y, float(np.sqrt(mask.sum() / AREA[shape]))) < 0
    return float((mask & template).sum() / max(1, (mask | template).sum()))


def _colour(rgb: Floats, chroma: Floats) -> str | None:
    """Return the colour of a patch's pixels (n, 3), or None if they do not agree on one."""
    red, green, blue = rgb.T
    angle = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)
    mean = np.angle((chroma * np.exp(1j * angle)).sum())
    spread = np.abs(np.angle(np.exp(1j * (angle - mean))))
    if np.mean(spread < np.radians(25)) < 0.85:
        return None
    gaps = [abs(np.angle(np.exp(1j * (mean - np.radians(hue))))) for hue in HUES]
    nearest = int(np.argmin(gaps))
    return COLOURS[nearest] if gaps[nearest] < np.radians(24) else None


def _pattern(mask: Mask, value: Floats) -> str | None:
    """Solid, striped or checkered by the brightness inside a patch, or None if it is none of these."""
    inner = ndimage.binary_erosion(mask)
    inner = inner if inner.sum() >= 24 else mask
    tones = value[inner]
    contrast = tones.std() / tones.mean()
    if contrast < 0.09:
        return "solid"
    one, two = _wave_fit(inner, tones - tones.mean())
    if contrast < 0.16 or two < 0.55:
        return None
    return "striped" if one > 0.68 * two else "checkered"


def _wave_fit(mask: Mask, tones: Floats) -> tuple[float, float]:
    """Share of the variance that the best plane wave explains, and the best two at right angles."""
    rows, columns = np.nonzero(mask)
    phase = np.einsum("kd,dn->kn", _WAVES, np.stack([columns, rows]).astype(np.float64))
    waves = np.stack([np.cos(phase), np.sin(phase)], 1)  # (angles * periods, 2, pixels)
    waves -= waves.mean(-1, keepdims=True)
    half = len(waves) // 2
    pairs = np.concatenate([waves[:half], waves[half:]], 1)
    return _explained(waves, tones), _explained(pairs, tones)


def _explained(basis: Floats, tones: Floats) -> float:
    gram = basis @ basis.transpose(0, 2, 1) + 1e-6 * np.eye(basis.shape[1])
    target = basis @ tones
    weight = np.linalg.solve(gram, target[..., None])[..., 0]
    return float(((weight * target).sum(-1) / (tones @ tones)).max())


def _wave_vectors() -> Floats:
    """Wave vectors of the patterns, the second half at right angles to the first: (192, 2), radians a pixel."""
    angles = np.arange(24) * np.pi / 24
    periods = np.array([6.5, 7.1, 7.6, 8.2])
    directions = np.stack([np.cos(angles), np.sin(angles)], -1)
    first, second = directions[:12], directions[12:]
    halves = [(2 * np.pi * half[:, None] / periods[:, None]).reshape(-1, 2) for half in (first, second)]
    return np.concatenate(halves)


_WAVES = _wave_vectors()

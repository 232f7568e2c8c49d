"""Procedural scenes: a few patterned shapes on a muted background, drawn into 64x64 pixels.

A scene fixes everything that the image shows. Captions (captions.py) tell only part of it, so a model
that learns to draw from captions has to invent the rest: places, phases, angles, unnamed things.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, starmap

import numpy as np
from numpy.typing import NDArray

SIDE = 64  # pixels
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple")
HUES = (0.0, 52.0, 120.0, 180.0, 230.0, 292.0)  # degrees, one a colour
PATTERNS = ("solid", "striped", "checkered")
SIZES = ("small", "large")
RADII = {"small": (7.5, 8.5), "large": (11.5, 13.0)}  # pixels
TEXTURES = ("plain", "gradient", "wavy")
BRIGHTNESS = ("dark", "light")
# Half width and half height of a shape of radius 1, and its area.
EXTENT = {"circle": 1.0, "square": 0.87, "triangle": 1.17, "cross": 1.15}
AREA = {"circle": 3.1416, "square": 3.0276, "triangle": 2.3675, "cross": 3.1584}

Kind = tuple[str, str, str, str]
"""Colour, shape, pattern, size."""

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Thing:
    """One object. Lengths and places in pixels, angles in radians, hue in degrees."""

    shape: str
    colour: str
    pattern: str
    size: str
    x: float
    y: float
    radius: float
    hue: float
    saturation: float
    value: float
    shade: float
    angle: float
    period: float
    phase: tuple[float, float]


@dataclass(frozen=True)
class Background:
    """A muted ground. `value` is its mean brightness in 0..1."""

    brightness: str
    texture: str
    value: float
    hue: float
    saturation: float
    strength: float
    angle: float
    period: float
    phase: float


@dataclass(frozen=True)
class Scene:
    """What an image shows: two or three things that do not touch, and the ground."""

    things: tuple[Thing, ...]
    background: Background


def held_out(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Return whether two coloured shapes, such as red circle and cyan square, share no training image.

    An eighth of all pairs does not. Each coloured shape has three such partners, so nothing about it alone is unusual.
    """
    return (_number(one) + _number(other)) % 8 == 0


def _number(kind: tuple[str, ...]) -> int:
    return len(SHAPES) * COLOURS.index(kind[0]) + SHAPES.index(kind[1])


def sample_scene(rng: np.random.Generator, unseen: bool = False) -> Scene:
    """Draws a scene. With `unseen` its first two things are a held-out pair; without, no two things are."""
    while True:
        kinds = [_sample_kind(rng) for _ in range(int(rng.integers(2, 4)))]
        if unseen != held_out(kinds[0], kinds[1]) or (not unseen and any(starmap(held_out, combinations(kinds, 2)))):
            continue
        # Three things rarely fit if two of them are large.
        crowded = len(kinds) == 3 and sum(kind[3] == "large" for kind in kinds) > 1
        if crowded or len({kind[:3] for kind in kinds}) < len(kinds):
            continue
        things = _place(rng, kinds)
        if things is not None:
            return Scene(things, _sample_background(rng))


def render(scene: Scene) -> Pixels:
    """Draws a scene with anti-aliased edges: (64, 64, 3) uint8."""
    image = _ground(scene.background)
    for thing in scene.things:
        coverage = np.clip(0.5 - distance(thing.shape, thing.x, thing.y, thing.radius), 0, 1)[..., None]
        light = _hsv(thing.hue, thing.saturation, thing.value)
        tone = (1 - (1 - thing.shade) * _pattern(thing))[..., None] * light
        image = image * (1 - coverage) + tone * coverage
    return np.asarray(np.clip(image * 255 + 0.5, 0, 255), dtype=np.uint8)


def distance(shape: str, x: float, y: float, radius: float) -> Floats:
    """Signed distance in pixels from every pixel centre to a shape's outline, negative inside: (64, 64)."""
    dx, dy = _COLUMNS - x, _ROWS - y
    ax, ay = np.abs(dx), np.abs(dy)
    if shape == "circle":
        outline = np.hypot(dx, dy) - radius
    elif shape == "square":
        outline = np.maximum(ax, ay) - EXTENT["square"] * radius
    elif shape == "triangle":  # equilateral, pointing up, its centroid at the centre
        outline = np.maximum(dy, 0.8660254 * ax - 0.5 * dy) - 0.675 * radius
    else:
        arm, half = EXTENT["cross"] * radius, 0.42 * radius
        outline = np.minimum(np.maximum(ax - arm, ay - half), np.maximum(ax - half, ay - arm))
    return np.asarray(outline, np.float32)


def _sample_kind(rng: np.random.Generator) -> Kind:
    return COLOURS[rng.integers(6)], SHAPES[rng.integers(4)], PATTERNS[rng.integers(3)], SIZES[rng.integers(2)]


def _place(rng: np.random.Generator, kinds: list[Kind]) -> tuple[Thing, ...] | None:
    boxes: list[tuple[float, float, float]] = []
    things: list[Thing] = []
    for colour, shape, pattern, size in kinds:
        radius = float(rng.uniform(*RADII[size]))
        reach = EXTENT[shape] * radius
        for x, y in rng.uniform(reach + 1.5, SIDE - reach - 2.5, (25, 2)).tolist():
            if all(max(abs(x - bx), abs(y - by)) > reach + other + 3 for bx, by, other in boxes):
                break
        else:
            return None
        boxes.append((x, y, reach))
        random = rng.uniform(size=7).tolist()
        things.append(
            Thing(
                shape,
                colour,
                pattern,
                size,
                x,
                y,
                radius,
                hue=(HUES[COLOURS.index(colour)] + 12 * random[0] - 6) % 360,
                saturation=0.8 + 0.15 * random[1],
                value=0.88 + 0.12 * random[2],
                shade=0.42 + 0.1 * random[3],
                angle=float(np.pi / 4 * rng.integers(4)),
                period=7.0 + random[4],
                phase=(6.2832 * random[5], 6.2832 * random[6]),
            )
        )
    return tuple(things)


def _sample_background(rng: np.random.Generator) -> Background:
    brightness = BRIGHTNESS[rng.integers(2)]
    random = rng.uniform(size=7).tolist()
    return Background(
        brightness,
        TEXTURES[rng.integers(3)],
        value=(0.16 + 0.14 * random[0]) if brightness == "dark" else (0.66 + 0.16 * random[0]),
        hue=360 * random[1],
        saturation=0.12 * random[2],
        strength=0.04 + 0.05 * random[3],
        angle=6.2832 * random[4],
        period=12 + 6 * random[5],
        phase=6.2832 * random[6],
    )


def _pattern(thing: Thing) -> Floats:
    """Return the share of the darker tone at each pixel, 0 to 1: (64, 64)."""
    if thing.pattern == "solid":
        return np.zeros((SIDE, SIDE), np.float32)
    cos, sin = np.cos(thing.angle), np.sin(thing.angle)
    u = (_COLUMNS - thing.x) * cos + (_ROWS - thing.y) * sin
    v = (_ROWS - thing.y) * cos - (_COLUMNS - thing.x) * sin
    if thing.pattern == "striped":
        wave = np.sin(2 * np.pi * u / thing.period + thing.phase[0])
    else:  # cells of period / sqrt(2), so that the diagonal waves have the stripes' period
        pitch = np.pi * np.sqrt(2) / thing.period
        wave = np.sin(pitch * u + thing.phase[0]) * np.sin(pitch * v + thing.phase[1])
    # This slope makes the two tones blend over one pixel.
    return np.asarray(np.clip(0.5 + wave * thing.period / (2 * np.pi), 0, 1), np.float32)


def _ground(ground: Background) -> Floats:
    along = (_COLUMNS - 31.5) * np.cos(ground.angle) + (_ROWS - 31.5) * np.sin(ground.angle)
    if ground.texture == "gradient":
        relief = along / 32
    elif ground.texture == "wavy":
        relief = np.sin(2 * np.pi * along / ground.period + ground.phase)
    else:
        relief = np.zeros((SIDE, SIDE), np.float32)
    value = ground.value + ground.strength * relief
    return np.asarray(value[..., None] * _hsv(ground.hue, ground.saturation, 1.0), np.float32)


def _hsv(hue: float, saturation: float, value: float) -> Floats:
    """Return one colour as red, green, blue in 0..1: (3,)."""
    turns = (hue / 60 + np.array([5.0, 3.0, 1.0])) % 6
    rgb = value * (1 - saturation * np.clip(np.minimum(turns, 4 - turns), 0, 1))
    return np.asarray(rgb, dtype=np.float32)


_ROWS, _COLUMNS = (axis.astype(np.float32) for axis in np.mgrid[0:SIDE, 0:SIDE])

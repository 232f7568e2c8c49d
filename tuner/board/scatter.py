"""Cost against quality of all trials, as an image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuner.numbers import format_number

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = (336, 252)
"""As large as TensorBoard shows an image: it leaves out pixels of a larger one, and letters cannot be read."""

LEFT, TOP, RIGHT, BOTTOM = 46, 26, 16, 38
LETTERS = 11
"""Pixels."""

MARGIN = 0.06
"""The share of each axis that stays free beyond the outermost dots."""

INK, QUIET, GRID = "#202124", "#80868b", "#e8eaed"
STYLES = {
    "chosen": ("#188038", 5),
    "baseline": (INK, 5),
    "front": ("#1a73e8", 4),
    "doubtful": ("#f29900", 4),
    "other": ("#bdc1c6", 3),
}
"""Colour and radius of a dot by what it is, in the order of the legend."""


@dataclass(frozen=True)
class Dot:
    """A trial: US dollars for 1000 images, quality, and what it is, a key of `STYLES`."""

    number: int
    cost: float
    quality: float
    what: str


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: int
    end: int

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def draw(dots: Sequence[Dot], metric: str) -> Image:
    """Draw trials by cost, on a logarithmic axis, and quality."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(image)
    x = _axis([math.log10(dot.cost) for dot in dots], LEFT, SIZE[0] - RIGHT)
    y = _axis([dot.quality for dot in dots], SIZE[1] - BOTTOM, TOP)
    for value in _costs(x):
        place = x.at(math.log10(value))
        pen.line((place, TOP, place, SIZE[1] - BOTTOM), fill=GRID)
        pen.text((place, SIZE[1] - BOTTOM + 4), format_number(value, 2), QUIET, anchor="mt", font_size=LETTERS)
    for value in _even(y):
        pen.line((LEFT, y.at(value), SIZE[0] - RIGHT, y.at(value)), fill=GRID)
        pen.text((LEFT - 4, y.at(value)), format_number(value, 4), QUIET, anchor="rm", font_size=LETTERS)
    pen.text((SIZE[0] / 2, SIZE[1] - 16), "US$ for 1000 images", INK, anchor="mt", font_size=LETTERS + 1)
    pen.text((4, 6), metric, INK, font_size=LETTERS + 1)
    for dot in sorted(dots, key=lambda dot: list(STYLES).index(dot.what), reverse=True):
        _mark(pen, x.at(math.log10(dot.cost)), y.at(dot.quality), dot)
    _legend(pen, [what for what in STYLES if any(dot.what == what for dot in dots)])
    return image


def _axis(values: Sequence[float], start: int, end: int) -> _Axis:
    low, high = min(values), max(values)
    room = MARGIN * (high - low) or 0.1
    return _Axis(low - room, high + room, start, end)


def _costs(axis: _Axis) -> Iterator[float]:
    """Yield 1, 2 and 5 times the powers of ten on a logarithmic axis, or a few even ones if these are fewer than 3."""
    powers = range(math.floor(axis.low), math.ceil(axis.high) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    shown = [tick for tick in ticks if axis.low <= math.log10(tick) <= axis.high]
    yield from shown if len(shown) >= 3 else (10**value for value in _even(axis))


def _even(axis: _Axis) -> Iterator[float]:
    yield from (axis.low + (axis.high - axis.low) * share / 5 for share in range(1, 5))


def _mark(pen: Any, x: float, y: float, dot: Dot) -> None:
    colour, radius = STYLES[dot.what]
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline="white")
    if dot.what != "other":
        pen.text((x + radius, y - radius), str(dot.number), colour, anchor="lb", font_size=LETTERS)


def _legend(pen: Any, shown: Sequence[str]) -> None:
    left = SIZE[0] - RIGHT
    for what in reversed(shown):
        colour, radius = STYLES[what]
        left -= int(pen.textlength(what, font_size=LETTERS)) + 2 * radius + 14
        pen.ellipse((left, 12 - radius, left + 2 * radius, 12 + radius), fill=colour)
        pen.text((left + 2 * radius + 4, 12), what, INK, anchor="lm", font_size=LETTERS)

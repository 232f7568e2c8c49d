"""Captions: partial descriptions of a scene, as words and as the claims that an oracle can check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Protocol

import numpy as np

from tuner.demo.scenes import BRIGHTNESS, COLOURS, PATTERNS, SHAPES, SIDE, SIZES, Scene, Thing, sample_scene

RELATIONS = ("left of", "right of", "above", "below")
REGIONS = {
    "on the left": (-1, 0),
    "on the right": (1, 0),
    "at the top": (0, -1),
    "at the bottom": (0, 1),
    "in the top left": (-1, -1),
    "in the top right": (1, -1),
    "in the bottom left": (-1, 1),
    "in the bottom right": (1, 1),
}
MARGIN = 8.0  # pixels by which a said place holds; a nearer miss is never said
WORDS = tuple(
    sorted(
        {"a", "and", "shape", "background", "on"}
        | set(SHAPES + COLOURS + PATTERNS + SIZES + BRIGHTNESS)
        | {word for phrase in (*RELATIONS, *REGIONS) for word in phrase.split()}
    )
)


class Placed(Protocol):
    """A thing of a scene, or one read from an image; None is what could not be read."""

    @property
    def colour(self) -> str | None: ...
    @property
    def shape(self) -> str | None: ...
    @property
    def pattern(self) -> str | None: ...
    @property
    def size(self) -> str | None: ...
    @property
    def x(self) -> float: ...
    @property
    def y(self) -> float: ...


@dataclass(frozen=True)
class Mention:
    """What a caption says of one thing; None where it says nothing."""

    colour: str | None
    shape: str | None
    pattern: str | None
    size: str | None

    def phrase(self) -> str:
        """Return the mention in words."""
        words = ("a", self.size, self.pattern, self.colour, self.shape or "shape")
        return " ".join(word for word in words if word)

    def fits(self, thing: Placed) -> bool:
        """Return whether the thing is what the mention says."""
        said = (self.colour, self.shape, self.pattern, self.size)
        seen = (thing.colour, thing.shape, thing.pattern, thing.size)
        return all(word is None or word == other for word, other in zip(said, seen, strict=True))


@dataclass(frozen=True)
class Caption:
    """One or two mentions, how they lie, and the ground, each only if said."""

    mentions: tuple[Mention, ...]
    relation: str | None = None
    region: str | None = None
    brightness: str | None = None

    def text(self) -> str:
        """Return the caption in words, at most 23 of them."""
        words = [self.mentions[0].phrase()]
        if len(self.mentions) == 2:
            words += [self.relation or "and", self.mentions[1].phrase()]
        if self.region:
            words.append(self.region)
        if self.brightness:
            words.append(f"on a {self.brightness} background")
        return " ".join(words)


def relation_holds(relation: str, dx: float, dy: float, margin: float) -> bool:
    """Return whether a thing (dx, dy) pixels from another (right and down positive) has this relation to it."""
    return {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[relation] >= margin


def region_holds(region: str, x: float, y: float, margin: float) -> bool:
    """Return whether the place (x, y) is in the region, at least `margin` pixels beyond the middle lines."""
    across, down = REGIONS[region]
    middle = (SIDE - 1) / 2
    return (not across or across * (x - middle) >= margin) and (not down or down * (y - middle) >= margin)


def shown(caption: Caption, things: Sequence[Placed], brightness: str, margin: float) -> bool:
    """Return whether some of the things are what the caption says, and lie as it says by `margin` pixels."""
    if caption.brightness not in (None, brightness):
        return False
    for chosen in permutations(things, len(caption.mentions)):
        if not all(mention.fits(thing) for mention, thing in zip(caption.mentions, chosen, strict=True)):
            continue
        dx, dy = chosen[0].x - chosen[-1].x, chosen[0].y - chosen[-1].y
        related = not caption.relation or relation_holds(caption.relation, dx, dy, margin)
        if related and (not caption.region or region_holds(caption.region, chosen[0].x, chosen[0].y, margin)):
            return True
    return False


def describe(rng: np.random.Generator, scene: Scene, pair: bool = False) -> Caption:
    """Draw a random true caption of a scene, no word of which fits a thing that it does not name.

    With `pair` it names the scene's first two things, each with its colour and its shape.
    """
    while True:
        named = [int(i) for i in rng.permutation(2 if pair else len(scene.things))]
        named = named[: 2 if pair or rng.random() < 0.65 else 1]
        mentions = tuple(_mention(rng, scene.things[i], pair) for i in named)
        if all(_only(mention, i, scene) for mention, i in zip(mentions, named, strict=True)):
            break
    things = [scene.things[i] for i in named]
    relation = region = None
    if len(things) == 2:
        dx, dy = things[0].x - things[1].x, things[0].y - things[1].y
        relation = _choose(rng, [r for r in RELATIONS if relation_holds(r, dx, dy, MARGIN)], 0.75)
    else:
        region = _choose(rng, [r for r in REGIONS if region_holds(r, things[0].x, things[0].y, MARGIN)], 0.6)
    brightness = scene.background.brightness if rng.random() < 0.35 else None
    return Caption(mentions, relation, region, brightness)


def contradict(rng: np.random.Generator, caption: Caption, scene: Scene) -> Caption:
    """Return the caption with one claim changed, so that the scene no longer shows it."""
    changes = _changes(caption)
    while True:
        other = changes[rng.integers(len(changes))]
        if not shown(other, scene.things, scene.background.brightness, 0):
            return other


def sample_pair(rng: np.random.Generator, unseen: bool = False) -> tuple[Scene, Caption]:
    """Draw a scene and a true caption; with `unseen` the caption names a pair held out of training."""
    scene = sample_scene(rng, unseen)
    return scene, describe(rng, scene, pair=unseen)


def _mention(rng: np.random.Generator, thing: Thing, full: bool) -> Mention:
    drop = rng.random(4) < ((0, 0, 0.55, 0.6) if full else (0.1, 0.1, 0.45, 0.5))
    said = [
        None if gone else word
        for gone, word in zip(drop, (thing.colour, thing.shape, thing.pattern, thing.size), strict=True)
    ]
    return Mention(*said)


def _only(mention: Mention, index: int, scene: Scene) -> bool:
    if mention.colour is None and mention.shape is None:
        return False
    fitting = [mention.fits(thing) for thing in scene.things]
    return fitting[index] and sum(fitting) == 1


def _choose(rng: np.random.Generator, options: list[str], chance: float) -> str | None:
    return options[rng.integers(len(options))] if options and rng.random() < chance else None


def _changes(caption: Caption) -> list[Caption]:
    changes: list[Caption] = []
    for index, mention in enumerate(caption.mentions):
        for field, values in (("colour", COLOURS), ("shape", SHAPES), ("pattern", PATTERNS), ("size", SIZES)):
            said = getattr(mention, field)
            for value in values if said else ():
                if value != said:
                    changed = replace(mention, **{field: value})
                    mentions = tuple(changed if i == index else m for i, m in enumerate(caption.mentions))
                    changes.append(replace(caption, mentions=mentions))
    # Twice, for there are many other colours and shapes but one opposite place.
    if caption.relation:
        changes += 2 * [replace(caption, relation=RELATIONS[RELATIONS.index(caption.relation) ^ 1])]
    if caption.region:
        across, down = REGIONS[caption.region]
        mirrored = next(region for region, way in REGIONS.items() if way == (-across, -down))
        changes += 2 * [replace(caption, region=mirrored)]
    if caption.brightness:
        changes += 2 * [replace(caption, brightness=BRIGHTNESS[1 - BRIGHTNESS.index(caption.brightness)])]
    return changes
